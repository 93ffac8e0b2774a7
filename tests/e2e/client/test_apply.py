"""`offbeat apply`, `export` and `import` against the real server."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from offbeat.cli.config_file import read_config
from offbeat_server.cli.importers import crontab
from offbeat_server.cli.importers.healthchecks import read_checks
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.schedule.durations import read_duration
from tests.support.clients.command import file_with, offbeat, started
from tests.support.harness import Server

CONFIG = """
channels:
  ops: {kind: webhook, url: "https://example.org/hook/very-secret"}
monitors:
  extract:
    cron: "0 3 * * *"
    timezone: Europe/Berlin
    keys:
      - {signal: start}
      - {signal: fail, key: EXTRACT_FAILED}
  load:
    after: {monitor: extract, within: 1h}
    tags: [etl]
"""


async def test_a_file_is_applied_and_exported(database_url: str, tmp_path: Path) -> None:
    async with Server(database_url) as server:
        file = file_with(tmp_path, "monitors.yaml", CONFIG)
        dry = await offbeat("apply", file, "--dry-run", url=server.url)
        assert dry.code == 0, dry.err
        assert "+ monitor extract" in dry.out and "cron: 0 3 * * *" in dry.out
        assert "3 created, 0 changed, 0 deleted, 0 unchanged (dry run: nothing was changed)" in dry.out
        assert (await offbeat("monitors", url=server.url)).out == "no monitors\n"

        assert (await offbeat("apply", file, url=server.url)).code == 0
        again = await offbeat("apply", file, url=server.url)
        assert again.out == "0 created, 0 changed, 0 deleted, 3 unchanged\n"

        changed = file_with(
            tmp_path, "changed.yaml", CONFIG.replace("0 3 * * *", "30 4 * * *").replace("[etl]", "[a, b]")
        )
        output = (await offbeat("apply", changed, url=server.url)).out
        assert "~ monitor extract\n    cron: 0 3 * * * → 30 4 * * *\n" in output
        assert "~ monitor load\n    tags: etl → a, b\n" in output

        wrong = file_with(tmp_path, "wrong.yaml", "monitors:\n  a: {every: soon}\n  b: {cron: '* *', evry: 1m}\n")
        refused = await offbeat("apply", wrong, url=server.url)
        assert refused.code == 1 and refused.out == ""
        assert "wrong.yaml: refused, nothing was changed" in refused.err
        for field in ("monitors.a.every: ", "monitors.b.cron: ", "monitors.b.evry: "):
            assert field in refused.err
        assert "Traceback" not in refused.err

        exported = await offbeat("export", url=server.url)
        config = yaml.safe_load(exported.out)
        assert [m["slug"] for m in config["monitors"]] == ["extract", "load"]
        assert "very-secret" not in exported.out
        back = file_with(tmp_path, "export.yaml", exported.out)
        assert "0 created, 0 changed, 0 deleted" in (await offbeat("apply", back, "--prune", url=server.url)).out
        assert (await offbeat("export", "--json", url=server.url)).json == config

        less = file_with(tmp_path, "less.json", orjson.dumps({"monitors": {"extract": {"every": "1d"}}}).decode())
        pruned = await offbeat("apply", less, "--prune", "--json", url=server.url)
        assert pruned.json["counts"] == {"created": 0, "changed": 1, "deleted": 1, "unchanged": 0}


async def test_prune_asks_on_a_terminal_and_refuses_an_empty_part(database_url: str, tmp_path: Path) -> None:
    async with Server(database_url) as server:
        for slug in ("a", "b", "c"):
            await server.api("PUT", f"/api/v1/monitors/{slug}", {"every": "1h"})
        empty = file_with(tmp_path, "empty.yaml", "monitors: {}")
        refused = await offbeat("apply", empty, "--prune", url=server.url)
        assert refused.code == 1 and "monitors: empty, so --prune would delete all of them" in refused.err
        assert len((await offbeat("monitors", "--json", url=server.url)).json) == 3

        one = file_with(tmp_path, "one.yaml", "monitors: {a: {every: 1h}}")
        for answer, code, left in ((b"n\n", 130, 3), (b"y\n", 0, 1)):
            controller, terminal = os.openpty()
            os.write(controller, answer)
            process = await started("apply", one, "--prune", url=server.url, stdin=terminal)
            os.close(terminal)
            _, err = await process.communicate()
            os.close(controller)
            assert process.returncode == code, err
            assert b"- monitor b" in err and b"Delete 2 of them permanently?" in err
            assert len((await offbeat("monitors", "--json", url=server.url)).json) == left
        done = await offbeat("apply", empty, "--prune", "--yes", url=server.url)
        assert done.code == 0 and "1 deleted" in done.out, done.err


async def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, text, problem in (
        ("no.yaml", None, "cannot be read (No such file or directory): name a readable file"),
        ("bad.yaml", "monitors: [", "line 2, column 1: did not find"),
        ("bad.json", "{", "cannot be read"),
        ("list.yaml", "- a", "must be an object"),
        ("twice.yaml", "monitors:\n  a: {every: 1h}\n  a: {every: 2h}", "line 3, column 3: the key 'a' is given twice"),
        ("twice.json", '{"monitors": {},\n"monitors": {}}', "line 2: the key 'monitors' is given twice"),
        ("clock.yaml", "monitors:\n  a: {every: 24:00}", "line 2, column 14: 24:00 is ambiguous"),
        ("unset.yaml", "channels: {a: {kind: log, x: '${OFFBEAT_TEST_UNSET}'}}", "OFFBEAT_TEST_UNSET is not set"),
    ):
        file = file_with(tmp_path, name, text) if text is not None else str(tmp_path / name)
        done = await offbeat("apply", file)
        assert done.code == 2
        assert done.err.startswith(f"offbeat: {file}: ") and problem in done.err, done.err
    assert read_config(Path(file_with(tmp_path, "empty.yaml", ""))) == {}


CRONTAB = """\
# nightly jobs
SHELL=/bin/bash
MAILTO=""
*/5 * * * * /usr/local/bin/sync.sh --fast 2>&1 | logger
CRON_TZ=Europe/Berlin
0 3 * * 1-5 cd /srv && ./backup.sh 'a b' > /dev/null
@daily flock -n /tmp/lock python3 /opt/etl/run_etl.py --date=\\%F%one%two
@reboot /usr/bin/never
30 2 * * sun FOO=bar nice -n 10 /opt/sync
"""


def test_a_crontab_is_read_line_by_line() -> None:
    jobs = crontab.read_crontab(CRONTAB).jobs
    assert [(job.number, job.schedule, job.timezone) for job in jobs] == [
        (4, "*/5 * * * *", None),
        (6, "0 3 * * 1-5", "Europe/Berlin"),
        (7, "@daily", "Europe/Berlin"),
        (9, "30 2 * * sun", "Europe/Berlin"),
    ]
    assert [crontab.program_of(job.command) for job in jobs] == ["sync", "backup", "run_etl", "sync"]
    assert [crontab.under_exec(job, "K") for job in jobs[1:3]] == [
        """0 3 * * 1-5 offbeat exec K -- "$SHELL" -c 'cd /srv && ./backup.sh '"'"'a b'"'"' > /dev/null'""",
        """@daily offbeat exec K -- "$SHELL" -c 'flock -n /tmp/lock python3 /opt/etl/run_etl.py --date=\\%F'%one%two""",
    ]
    (job,) = crontab.read_crontab("17 *\t* * *  root  cd / && run-parts /etc/cron.hourly\n", system=True).jobs
    assert crontab.under_exec(job, "K").startswith("17 *\t* * *  root  offbeat exec K -- ")
    odd = crontab.read_crontab("@every 5m x\nnonsense\n* * * *\n=\n\n0 2 * *  /three\n@reboot /x\n")
    assert odd.jobs == crontab.read_crontab("@every 5m x").jobs
    assert [number for number, _ in odd.left] == [2, 3, 4, 6, 7]
    (job,) = crontab.read_crontab("0 2 * * * /a\x0cb\u2028c\r\n").jobs
    assert job.command == "/a\x0cb\u2028c"


GUARDED = [
    ("[ 1 = 2 ] && exit 3", "if [ 1 = 2 ]; then exit 3; fi", 0),
    ("[ 1 = 1 ] && exit 3", "if [ 1 = 1 ]; then exit 3; fi", 3),
    ("test -d / && [ -d /no ] && exit 3", "if test -d / && [ -d /no ]; then exit 3; fi", 0),
    ('[ "$(echo 01 | cut -c2)" = "1" ] && exit 3', 'if [ "$(echo 01 | cut -c2)" = "1" ]; then exit 3; fi', 3),
    ("[ -d / ] && true | false", "if [ -d / ]; then true | false; fi", 1),
    # Here the condition decides on a part of the line only, or the other way round: the line stays as it is.
    ("[ -d /no ] && exit 3; exit 4", "[ -d /no ] && exit 3; exit 4", 4),
    ("[ -d /no ] && exit 3 || exit 5", "[ -d /no ] && exit 3 || exit 5", 5),
    ("test -d / || exit 3", "test -d / || exit 3", 0),
    ("cd / && false", "cd / && false", 1),
]


@pytest.mark.parametrize(("command", "under", "code"), GUARDED)
def test_a_condition_that_does_not_hold_is_no_failure(command: str, under: str, code: int) -> None:
    (job,) = crontab.read_crontab(f"0 1 * * * {command}").jobs
    line = crontab.under_exec(job, "K")
    assert line.partition(' -- "$SHELL" -c ')[2] == shlex.quote(under)
    assert subprocess.run(["sh", "-c", under], check=False).returncode == code


def test_a_guarded_job_is_named_after_its_program() -> None:
    for guard in ('[ "$(date +\\%d -d tomorrow)" = "01" ] && ', "test -x /a && [[ -f /b ]] && ", ""):
        assert crontab.program_of(f"{guard}/usr/bin/job.sh --all") == "job"


CHECKS: Any = {
    "checks": [
        {
            "name": "Nightly Backup",
            "slug": "nightly-backup",
            "tags": "prod www",
            "desc": "Every night",
            "grace": 3600,
            "timeout": 86400,
            "status": "up",
            "ping_url": "https://hc-ping.com/7d7a4d3a-1f5c-4a53-8d64-2f0d2c7a1b11",
            "manual_resume": False,
            "methods": "",
        },
        {
            "name": "Cron",
            "slug": "nightly-backup",
            "grace": 600,
            "schedule": "15 5 * * *",
            "tz": "Europe/Riga",
            "status": "paused",
            "methods": "POST",
            "manual_resume": True,
            "ping_url": "https://hc.example.org/ping/2d1b7a3e-1111-4a53-8d64-2f0d2c7a1b11",
            "filter_http_body": True,
            "success_kw": "SUCCESS, OK",
            "failure_kw": "ERROR",
            "start_kw": "",
            "filter_default_fail": True,
        },
        {"name": "", "slug": "", "grace": 60, "schedule": "Mon..Fri 12:00", "tz": "UTC", "uuid": "x-y"},
    ]
}


def test_checks_of_healthchecks_become_monitors() -> None:
    first, second, third = read_checks(CHECKS)
    assert first == {
        "slug": "nightly-backup",
        "name": "Nightly Backup",
        "tags": ["prod", "www"],
        "description": "Every night",
        "every": 86400,
        "grace": 3600,
        "max_runtime": 3600,
        "key": "7d7a4d3a-1f5c-4a53-8d64-2f0d2c7a1b11",
    }
    assert second["slug"] == "nightly-backup-2" and second["paused"] and second["manual_resume"]
    assert second["cron"] == "15 5 * * *" and second["timezone"] == "Europe/Riga" and second["methods"] == "POST"
    assert second["keywords"] == {"success": ["SUCCESS", "OK"], "fail": ["ERROR"], "default": "fail"}
    assert third["oncalendar"] == "Mon..Fri 12:00" and third["slug"] == "check" and third["key"] == "x-y"
    for monitor in (first, second, third):
        read_definition({name: value for name, value in monitor.items() if name not in ("slug", "key", "paused")})
    with pytest.raises(Exception, match="no list of checks"):
        read_checks({"error": "wrong api key"})


@pytest.mark.parametrize(
    ("schedule", "kind", "stored"),
    [
        ("Mon *-*-* 10:00\nTue 11:00", "oncalendar", "Mon *-*-* 10:00\nTue 11:00"),  # five words, in two lines
        ("12:00\r\n17:30\r\n", "oncalendar", "12:00\n17:30"),
        ("\n12:00\n\n17:30 Europe/Riga", "oncalendar", "12:00\n17:30 Europe/Riga"),
        ("daily\nMon 10:00\n12:00 UTC", "oncalendar", "daily\nMon 10:00\n12:00 UTC"),
        ("semi-annually", "oncalendar", "semiannually"),
        ("15 5 * * *", "cron", "15 5 * * *"),
        (" 15  5 * * * \n", "cron", "15 5 * * *"),
        ("@daily", "cron", "0 0 * * *"),
    ],
)
def test_a_schedule_of_healthchecks_keeps_its_kind_and_all_its_lines(schedule: str, kind: str, stored: str) -> None:
    [monitor] = read_checks({"checks": [{"name": "a", "schedule": schedule, "tz": "UTC"}]})
    definition = read_definition({name: value for name, value in monitor.items() if name not in ("slug", "name")})
    assert getattr(definition, kind) == stored


async def test_what_is_there_is_taken_over(database_url: str, tmp_path: Path) -> None:
    async with Server(database_url) as server:
        old, new = file_with(tmp_path, "crontab", CRONTAB), tmp_path / "new"
        done = await offbeat("import", "crontab", old, "--timezone", "UTC", "--write", str(new), url=server.url)
        assert done.code == 0, done.err
        monitors = {m["slug"]: m for m in (await offbeat("monitors", "--json", url=server.url)).json}
        assert list(monitors) == ["backup", "run_etl", "sync", "sync-2"]
        assert monitors["backup"]["max_runtime"] == "12h"
        assert monitors["backup"]["cron"] == "0 3 * * 1-5" and monitors["backup"]["timezone"] == "Europe/Berlin"
        lines = new.read_text().splitlines()
        assert lines[0] == "# nightly jobs" and "@reboot /usr/bin/never" in lines
        assert f"exec --url {server.url} {monitors['backup']['key']} -- " in lines[5]
        again = await offbeat("import", "crontab", "-", "--timezone", "UTC", url=server.url, given=CRONTAB.encode())
        assert again.out == new.read_text(), "the same keys, and nothing else on standard output"
        assert "0 created, 0 changed" in again.err
        assert "line 7: it is not a line" not in again.err and "@reboot has no time at which it is due" in again.err

        # A line is imported once; another job beside it is another monitor, with any bytes.
        more = b"\xef\xbb\xbf" + new.read_bytes() + b"0 4 * * * /usr/bin/sync --to=Gr\xf6\xdfe\n"
        (tmp_path / "more").write_bytes(more)
        args = (str(tmp_path / "more"), "--timezone", "UTC", "--write", str(tmp_path / "newer"))
        once = await offbeat("import", "crontab", *args, url=server.url)
        assert once.code == 0 and "1 created, 0 changed" in once.out and "already runs under `offbeat exec`" in once.err
        newer = (tmp_path / "newer").read_bytes()
        assert newer.startswith(new.read_bytes()) and newer.endswith(b"-c '/usr/bin/sync --to=Gr\xf6\xdfe'\n")
        above = b"5 4 * * * /usr/bin/sync /above\n" + newer  # also if it stands before them
        (tmp_path / "above").write_bytes(above)
        args = (str(tmp_path / "above"), "--timezone", "UTC", "--write", str(tmp_path / "newest"))
        first = await offbeat("import", "crontab", *args, url=server.url)
        assert first.code == 0 and "1 created, 0 changed" in first.out, first.err
        wrong = await offbeat(
            "import", "crontab", "-", url=server.url, given=b"0 2 * * * a\n0 2 31 2 * b\n61 * * * * c\n"
        )
        assert wrong.code == 2 and "line 2: not a cron" in wrong.err and "line 3: not a cron" in wrong.err

        # A key of one project imports into that one, and finds there what it has made.
        await server.api("PUT", "/api/v1/projects/shop", {})
        created = await server.api("POST", "/api/v1/keys", {"name": "shop", "role": "admin", "project": "shop"})
        line = b"0 3 * * * /usr/bin/backup\n"
        shop = await offbeat("import", "crontab", "-", "--api-key", created.body["key"], url=server.url, given=line)
        assert shop.code == 0, shop.err
        unknown = await offbeat("import", "crontab", "-", "--api-key", "unknown", url=server.url, given=line)
        assert unknown.code == 1 and "the server does not know the access key" in unknown.err, unknown.err
        assert "set --api-key or OFFBEAT_ADMIN_KEY, or --data-dir" in unknown.err
        backup = await server.api("GET", "/api/v1/monitors/backup?project=shop")
        assert f"{backup.body['key']} -- " in shop.out

        checks = file_with(tmp_path, "checks.json", orjson.dumps(CHECKS).decode())
        done = await offbeat("import", "healthchecks", checks, url=server.url)
        assert done.code == 0 and "3 created" in done.out, done.err
        ping = f"/ping/{CHECKS['checks'][0]['ping_url'].rsplit('/', 1)[1]}"
        async with server.session.get(ping) as answer:
            assert answer.status == 200
        assert (await server.api("GET", "/api/v1/monitors/nightly-backup")).body["last_signal"] == "success"
        assert "ping_url" not in done.err
        # With a read-only key Healthchecks leaves the addresses out.
        checks = file_with(
            tmp_path, "read-only.json", '{"checks": [{"name": "Nightly", "unique_key": "x", "timeout": 60}]}'
        )
        done = await offbeat("import", "healthchecks", checks, url=server.url)
        assert done.code == 0 and "no ping_url is given for nightly" in done.err


@pytest.mark.parametrize(
    ("schedule", "runtime"),
    [
        ("* * * * *", "1h"),
        ("*/5 * * * *", "1h"),
        ("0 * * * *", "1h"),
        ("0 */6 * * *", "3h"),
        ("0 2 * * *", "12h"),
        ("@daily", "12h"),
        ("0 2,14 * * *", "6h"),
        ("0 2 * * 1-5", "12h"),
        ("0 2 * * 0", "24h"),
        ("0 2 1 * *", "24h"),
        ("61 2 * * *", None),
    ],
)
def test_a_run_of_an_imported_line_has_a_limit(schedule: str, runtime: str | None) -> None:
    proposed = crontab.proposed_runtime(schedule)
    assert (None if proposed is None else read_duration(proposed)) == (
        None if runtime is None else read_duration(runtime)
    )


@pytest.mark.parametrize(
    ("command", "slug", "guarded"),
    [
        ('[ "$(date +\\%d -d tomorrow)" = "01" ] && job', "job", False),
        ("[[ -f /run/x ]] && /opt/bin/job.sh --all", "job", False),
        ("test -x /usr/sbin/anacron && anacron -s", "anacron", False),
        ("command -v certbot >/dev/null 2>&1 && certbot renew", "certbot", True),
        ("expr `date +\\%W` \\% 2 >/dev/null && job", "job", True),
        ("! pgrep -x job && job", "job", True),
        ("[ -x /usr/bin/job ] || exit 0; job", "job", False),
        ("test -x /usr/sbin/anacron || ( cd / && run-parts /etc/cron.daily )", "test", False),
        ("sleep 30 && job", "job", False),
        ("sleep 30; job", "job", False),
        ("cd /srv && sudo php artisan", "artisan", False),
        ("if [ -f x ]; then job; fi", "if", False),
        ("job && echo done", "job", False),
    ],
)
def test_what_stands_in_front_of_a_job(command: str, slug: str, guarded: bool) -> None:
    assert crontab.is_guarded(command) is guarded
    if not command.startswith(("[ -x", "test -x /usr/sbin/anacron ||")):
        assert crontab.program_of(command) == slug
