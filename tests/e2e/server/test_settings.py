"""Settings are refused with what is allowed and which flag it was."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from offbeat.cli.settings import FORMER_VARIABLES_OF_SERVER, VARIABLES_OF_SERVER
from offbeat_server.common.errors import SettingsError, without_secrets
from offbeat_server.config import (
    FORMER_NAMES,
    SECRETS,
    Settings,
    former_names_in,
    read_settings,
    unknown_variables,
    variables_of_server,
)
from tests.support.clients.command import offbeat
from tests.support.harness import ROOT, Server


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("https://beat.example.org", "https://beat.example.org"),
        ("https://beat.example.org:8443/", "https://beat.example.org:8443"),
        ("http://[2001:db8::1]:8080", "http://[2001:db8::1]:8080"),
        ("", None),
    ],
)
def test_a_public_url_is_a_scheme_and_a_host(given: str, meant: str | None) -> None:
    assert read_settings({"public_url": given}).public_url == meant


@pytest.mark.parametrize(
    "given",
    [
        *("beat.example.org", "ftp://beat.example.org", "https://", "https:///x"),
        *("https://example.org/offbeat", "https://example.org/?a", "https://example.org/#a", "https://a:b@example.org"),
    ],
)
def test_a_public_url_below_a_path_is_refused_at_the_start(given: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({"public_url": given})
    assert "--public-url (OFFBEAT_PUBLIC_URL)" in str(refused.value)
    if "example.org/offbeat" in given:
        assert "https://offbeat.example.org" in str(refused.value), "it says what to do"


@pytest.mark.parametrize(
    ("name", "given", "problem_text"),
    [
        ("port", "abc", "must be a whole number, not 'abc'"),
        ("door", "slow", "must be 'fast' or 'aiohttp', not 'slow'"),
        ("workers", "0", "must be at least 1"),
        ("trusted_proxies", "x", "must be a network, such as 10.0.0.0/8"),
    ],
)
def test_a_wrong_value_says_what_to_write(name: str, given: str, problem_text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({name: given})
    assert problem_text in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without variables of Offbeat."""
    for name in [name for name in os.environ if name.startswith("OFFBEAT_")]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("OFFBEAT_KEEP_DAY", "OFFBEAT_KEEP_DAYS"),
        ("OFFBEAT_DATABASE", "OFFBEAT_DATABASE_URL"),
        ("OFFBEAT_ADMIN_KEYFILE", "OFFBEAT_ADMIN_KEY_FILE"),
        ("OFFBEAT_PORT_FILE", "OFFBEAT_PORT"),
        ("OFFBEAT_ZZZZZZ", "`offbeat serve --help`"),
    ],
)
def test_a_variable_that_is_no_setting_is_refused_with_the_nearest_name(
    environment: pytest.MonkeyPatch, name: str, near: str
) -> None:
    environment.setenv(name, "1")
    with pytest.raises(SettingsError, match=f"^{name}: there is no such setting; .*{near}"):
        read_settings({})


def test_variables_of_clients_and_of_kubernetes_are_no_mistake(environment: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OFFBEAT_URL": "https://beat.example.org", "OFFBEAT_RUN": "1", "OFFBEAT_KEEP_DAYS": "3",
        "OFFBEAT_PORT": "tcp://10.0.0.1:8080", "OFFBEAT_SERVICE_HOST": "10.0.0.1", "OFFBEAT_SERVICE_PORT": "8080",
        "OFFBEAT_SERVICE_PORT_HTTP": "8080", "OFFBEAT_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "OFFBEAT_PORT_8080_TCP_ADDR": "10.0.0.1", "OFFBEAT_PORT_8080_TCP_PROTO": "tcp",
        "OFFBEAT_POSTGRES_PORT": "tcp://10.0.0.2:5432", "OFFBEAT_POSTGRES_SERVICE_HOST": "10.0.0.2",
    }.items():  # fmt: skip
        environment.setenv(name, value)
    settings = read_settings({})
    assert settings.keep_days == 3 and settings.port == 8080


def test_every_variable_that_the_program_names_is_known(environment: pytest.MonkeyPatch) -> None:
    texts = [path.read_text() for folder in ("client", "server") for path in (ROOT / folder).rglob("*.py")]
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    texts += [path.read_text() for path in (*pages, ROOT / "deploy" / "compose.yaml")]
    texts += [(ROOT / "deploy" / "offbeat.service").read_text()]
    named = {name for text in texts for name in re.findall(r"\bOFFBEAT_[A-Z][A-Z_]*[A-Z]\b", text)}
    placeholders = {"OFFBEAT_X_Y", "OFFBEAT_X_Y_FILE", "OFFBEAT_NAME", "OFFBEAT_PING"}  # the last: a secret at GitHub
    assert {"OFFBEAT_RUN", "OFFBEAT_DATABASE_URL"} <= named
    for name in named - placeholders:
        environment.setenv(name, "1")
    assert not unknown_variables()


@pytest.mark.parametrize(
    "name", ["admin_key", "database_url", "metrics_token", "smtp_url", "watchdog_url", "public_url"]
)
def test_a_placeholder_that_nothing_replaced_is_refused(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(f"OFFBEAT_{name.upper()}", "https://${HOST:-a}/x")
    with pytest.raises(SettingsError, match=rf"OFFBEAT_{name.upper()}\): .*contains the placeholder \${{HOST:-a}}"):
        read_settings({})


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_may_come_from_files(environment: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    environment.setenv(f"OFFBEAT_{name.upper()}_FILE", str(file))
    unset = f"or unset OFFBEAT_{name.upper()}_FILE$"
    with pytest.raises(SettingsError, match=f"^OFFBEAT_{name.upper()}_FILE: .*No such file.*name a readable .*{unset}"):
        read_settings({})
    file.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=f"it is not UTF-8.*{unset}"):
        read_settings({})
    file.write_text("\n")
    with pytest.raises(SettingsError, match=f"the file is empty: write the value into {file}, {unset}"):
        read_settings({})
    file.write_text("https://s3cret\n")
    assert getattr(read_settings({}), name) == "https://s3cret"
    assert getattr(read_settings({name: "https://flag"}), name) == "https://flag"
    environment.setenv(f"OFFBEAT_{name.upper()}", "https://x")
    with pytest.raises(SettingsError, match="are both set"):
        read_settings({})


FORMER = {
    "door": ("http_server", "aiohttp"),
    "beat_url": ("watchdog_url", "http://x.example/y"),
    "beat_every": ("watchdog_every", "7"),
    "root_dialect": ("root_protocol", "snitch"),
    "ack_timeout": ("commit_timeout", "2.5"),
    "stop_delay": ("drain_delay", "4"),
}


def test_every_former_name_is_tested() -> None:
    assert {former: present for former, (present, _) in FORMER.items()} == FORMER_NAMES
    assert not FORMER_NAMES.keys() & Settings.model_fields.keys()


@pytest.mark.parametrize("former", FORMER)
def test_a_former_name_counts_as_the_present_one(environment: pytest.MonkeyPatch, former: str) -> None:
    present, text = FORMER[former]
    flag, variable = f"--{former.replace('_', '-')}", f"OFFBEAT_{former.upper()}"
    wanted = getattr(read_settings({present: text}), present)
    assert wanted != Settings.model_fields[present].default
    assert getattr(read_settings({former: text}), present) == wanted
    (warning,) = former_names_in({former: text})
    assert warning.startswith(f"{flag} is now called --{present.replace('_', '-')};")
    with pytest.raises(SettingsError, match=f"^{flag} and --.* are the same setting: give only --"):
        read_settings({former: text, present: text})
    with pytest.raises(SettingsError, match="--" + present.replace("_", "-") if text[0] != "h" else "placeholder"):
        read_settings({former: "${X}"})

    environment.setenv(variable, text)
    assert getattr(read_settings({}), present) == wanted
    (warning,) = former_names_in({})
    assert warning.startswith(f"{variable} is now called OFFBEAT_{present.upper()};")
    environment.setenv(f"OFFBEAT_{present.upper()}", text)
    with pytest.raises(SettingsError, match=f"^{variable} and OFFBEAT_.* are the same setting: unset {variable}$"):
        read_settings({})


def test_the_file_of_a_secret_by_its_former_name(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("http://x.example/y\n")
    environment.setenv("OFFBEAT_BEAT_URL_FILE", str(tmp_path / "url"))
    assert read_settings({}).watchdog_url == "http://x.example/y"
    assert former_names_in({})[0].startswith("OFFBEAT_BEAT_URL_FILE is now called OFFBEAT_WATCHDOG_URL_FILE;")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("OFFBEAT_WATCHDOG_URL", "OFFBEAT_WATCHDOG_URL_FILE"),
        ("OFFBEAT_WATCHDOG_URL", "OFFBEAT_BEAT_URL"),
        ("OFFBEAT_WATCHDOG_URL", "OFFBEAT_BEAT_URL_FILE"),
        ("OFFBEAT_WATCHDOG_URL_FILE", "OFFBEAT_BEAT_URL"),
        ("OFFBEAT_WATCHDOG_URL_FILE", "OFFBEAT_BEAT_URL_FILE"),
        ("OFFBEAT_BEAT_URL", "OFFBEAT_BEAT_URL_FILE"),
    ],
)
def test_a_setting_that_is_set_twice_is_refused(environment: pytest.MonkeyPatch, first: str, second: str) -> None:
    for name in (first, second):
        environment.setenv(name, "http://x.example/y")
    with pytest.raises(SettingsError, match=rf"{first}\b.*{second}\b|{second}\b.*{first}\b") as error:
        read_settings({})
    assert "unset" in str(error.value)
    assert read_settings({"watchdog_url": "http://flag.example/"}).watchdog_url == "http://flag.example/"


def test_the_client_knows_the_variables_of_the_server() -> None:
    assert set(VARIABLES_OF_SERVER) == variables_of_server()
    files = {f"{former}_file": f"{name}_file" for former, name in FORMER_NAMES.items() if name in SECRETS}
    wanted = {former.upper(): name.upper() for former, name in {**FORMER_NAMES, **files}.items()}
    assert wanted == FORMER_VARIABLES_OF_SERVER


@pytest.mark.parametrize("name", ["OFFBEAT_API_KEY", "OFFBEAT_SERVER_URL", "OFFBEAT_KEEP_DAY", "OFFBEAT_ADMIN_KYE"])
async def test_the_client_warns_of_an_unknown_variable(name: str) -> None:
    env: Any = {name: "1", "OFFBEAT_KEEP_DAYS": "9"}
    done = await offbeat("monitors", url="http://127.0.0.1:9", **env)
    assert f"warning: {name}: there is no such setting" in done.err and "OFFBEAT_KEEP_DAYS:" not in done.err


@pytest.mark.parametrize("former", FORMER)
async def test_a_mistyped_former_name_suggests_the_present_one(environment: pytest.MonkeyPatch, former: str) -> None:
    flag, present = former.replace("_", "-"), FORMER[former][0]
    done = await offbeat("serve", f"--{flag[:-1]}", "1")
    assert done.code == 2 and f"No such option --{flag[:-1]}. Did you mean --" in done.err
    assert f"--{present.replace('_', '-')}" in done.err and f"--{flag}" not in done.err.replace(f"--{flag[:-1]}.", "")
    environment.setenv(f"OFFBEAT_{former.upper()[:-1]}", "1")
    with pytest.raises(SettingsError, match=rf"did you mean OFFBEAT_{present.upper()}\?$"):
        read_settings({})


@pytest.mark.parametrize(
    "given",
    ["foo", "watchdog.example/id", "ftp://watchdog.example", "https://", "https://u:s3cret@h:port/", "https://[::1"],
)
def test_a_watchdog_url_must_be_a_web_address(given: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({"watchdog_url": given})
    problem_text = "--watchdog-url (OFFBEAT_WATCHDOG_URL): must begin with http:// or https:// and a host name"
    assert str(refused.value).startswith(problem_text) and "s3cret" not in str(refused.value)
    assert f"not {without_secrets(given)!r}" in str(refused.value)


@pytest.mark.parametrize("name", SECRETS)
def test_the_message_about_a_wrong_secret_does_not_show_it(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({name: "https://user:s3cret@${HOST}/t0ken"})
    assert "${HOST}" in str(refused.value) and not re.search("s3cret|t0ken", str(refused.value))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("foo", "foo"),
        ("", ""),
        ("mail.example.org/", "mail.example.org"),
        ("mysql://user:a@b@host:1/db?password=x", "mysql://…@host:1/…"),
        ("mysql://user:a@b/c?d@host:1/db?password=x", "mysql://…"),
        ("postgresql://host/db?password=se@cret", "postgresql://…"),
        ("https://host/token@token", "https://…"),
        ("user:secret@host", "…@host"),
        ("https://host/token", "https://host/…"),
        ("https://host?token", "https://host/…"),
        ("a\nb", "a\nb"),
    ],
)
def test_a_url_in_a_message_has_no_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    ("flags", "problem_text"),
    [
        (
            ("--database-url", "mysql://u:s3cret@h/x"),
            "postgresql://user:password@host:5432/database, not 'mysql://…@h/…'",
        ),
        (("--database-url", "foo"), "must be a URL of Postgres such as postgresql://user:password@host:5432/database"),
        (("--database-url", "postgresql://h:port/x"), "--database-url is not postgresql://user:password@host:port/"),
        (("--smtp-url", "foo"), "a URL such as smtps://user:password@host/?from=offbeat@example.org, not 'foo'"),
        (("--smtp-url", "http://u:s3cret@h/"), "--smtp-url (OFFBEAT_SMTP_URL): must be a URL such as smtps://"),
        (("--smtp-url", "smtp://h/?from=x"), "--smtp-url (OFFBEAT_SMTP_URL): from must be an e-mail address"),
        (
            ("--smtp-ehlo", "a b"),
            "--smtp-ehlo must be a host name or an address literal such as [192.0.2.1], not 'a b'",
        ),
        (("--watchdog-url", "foo"), "must begin with http:// or https:// and a host name"),
        (("--config", "/nope.yaml"), "/nope.yaml: cannot be read (No such file or directory): name a readable file"),
        (("--config", "list.yaml"), "list.yaml: must be an object with monitors, channels or projects"),
        (("--config", "item.yaml"), "item.yaml: nothing was changed\n  monitors.a.every: "),
        (("--config", "part.yaml"), "part.yaml: nothing was changed\n  monitor: there is no such field"),
    ],
)
async def test_a_wrong_setting_is_an_error_before_the_start_waits_for_postgres(
    tmp_path: Path, flags: tuple[str, ...], problem_text: str
) -> None:
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "item.yaml").write_text("monitors: {a: {every: soon}}\n")
    (tmp_path / "part.yaml").write_text("monitor: {}\n")
    url = "postgresql://offbeat@127.0.0.1:9/x"  # no Postgres answers there, so a later check would never come
    arguments = [str(tmp_path / flag) if flag.endswith(".yaml") else flag for flag in flags]
    for workers in ("1", "2") if "--config" in flags else ("1",):
        done = await offbeat("serve", "--database-url", url, "--workers", workers, *arguments)
        assert done.code == 2 and "waiting_for_postgres" not in done.err, done.err
        assert problem_text in done.err and "s3cret" not in done.err, done.err


@pytest.mark.parametrize(
    "given", ["foo", "beat.example.org", "ftp://x", "http://", "http://h:port", "http://[::1", "http:///x"]
)
async def test_a_wrong_address_of_the_server_says_what_to_write(given: str) -> None:
    done = await offbeat("monitors", "--url", given)
    assert done.code == 2 and done.err.count("\n") == 1
    assert "--url (OFFBEAT_URL): must begin with http:// or https:// and a host, such as http://127" in done.err
    assert f"not {given!r}" in done.err


async def test_a_mistyped_flag_suggests_its_name_and_a_strange_one_nothing() -> None:
    done = await offbeat("serve", "--http-serve", "1")
    assert done.code == 2 and "No such option --http-serve. Did you mean --http-server?" in done.err
    for strange in ("--xyzzy", "--bogus", "--force", "--hots-name"):
        done = await offbeat("serve", f"{strange}=1")
        assert done.code == 2 and done.err.endswith(f"No such option {strange}.\n")


async def test_former_flags_work_with_a_warning_and_are_not_shown(database_url: str) -> None:
    async with Server(database_url, "--door", "aiohttp", env={"OFFBEAT_ACK_TIMEOUT": "5"}) as server:
        output = "\n".join(server.output)
    assert "detail='--door is now called --http-server; " in output
    assert "detail='OFFBEAT_ACK_TIMEOUT is now called OFFBEAT_COMMIT_TIMEOUT; " in output
    done = await offbeat("doctor", "--json", OFFBEAT_ACK_TIMEOUT="5", OFFBEAT_DATABASE_URL=database_url)
    assert any("OFFBEAT_COMMIT_TIMEOUT" in each["message"] for each in done.json if each["check"] == "settings")
    done = await offbeat("serve", "--ack-timeout", "x")
    assert done.code == 2 and done.err.startswith("offbeat: --commit-timeout (OFFBEAT_COMMIT_TIMEOUT): ")
    shown = (await offbeat("serve", "--help")).out
    assert "--http-server" in shown and not re.search(r"--(door|beat-|root-dialect|ack-timeout|stop-delay)", shown)
