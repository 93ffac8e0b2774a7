"""Files of monitors: what few people mean is refused with its line, and secrets come from the environment."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from offbeat.cli.config_file import read_config, write_config
from offbeat.strict_json import read_json
from offbeat_server.common.errors import DefinitionError, SettingsError
from offbeat_server.engine.model.definition import read_definition


def read(tmp_path: Path, text: str, name: str = "config.yaml") -> dict[str, Any]:
    path = tmp_path / name
    path.write_text(text)
    return read_config(path)


TWICE = """monitors:
  backup: {every: 1h}
  report:
    every: 1d
  backup: {every: 2h}
"""


@pytest.mark.parametrize(
    ("text", "line", "problem_text"),
    [
        (TWICE, 5, "the key 'backup' is given twice, first in line 2"),
        ("monitors: {}\nchannels: {}\nmonitors: {}", 3, "the key 'monitors' is given twice"),
        ("monitors:\n  a:\n    every: 1h\n    grace: 1m\n    every: 2h", 5, "the key 'every' is given twice"),
        ("channels:\n  hook: {kind: webhook, headers: {A: b, A: c}}", 2, "the key 'A' is given twice"),
        ("windows:\n  w: {cron: 0 2 * * *, duration: 1h}\n  'w': {}", 3, "the key 'w' is given twice"),
        ("projects:\n- slug: a\n  slug: b", 3, "the key 'slug' is given twice"),
        ("monitors:\n  a: {<<: {every: 1h}, <<: {grace: 1m}}", 2, "'<<' is given twice"),
        ("monitors:\n  a:\n    every: 24:00", 3, "24:00 is ambiguous: YAML reads it as the number 1440"),
        ("monitors:\n  a: {every: 1h, grace: 1:30}", 2, "1:30 is ambiguous: YAML reads it as the number 90"),
        ("monitors:\n  a: {every: 1:30:00}", 2, "the number 5400"),
        ("monitors:\n  a: {every: 0600}", 2, "0600 is ambiguous: YAML reads it as the number 384"),
        ("monitors:\n  a: {grace: 010}", 2, "010 is ambiguous: YAML reads it as the number 8"),
        ("monitors:\n  a: {every: 0x10}", 2, "the number 16"),
        ("monitors:\n  a: {every: 0b11}", 2, "the number 3"),
        ("monitors:\n  a: {every: 1_000}", 2, "the number 1000"),
        ("monitors:\n  a: {every: 1:30.5}", 2, "the number 90.5"),
        ("monitors:\n  a: {every: .inf}", 2, "ambiguous"),
        ("monitors:\n  a: {every: 1e3}", 2, "1e3 is ambiguous"),
        ("monitors:\n  a: {tags: [12e03]}", 2, "12e03 is ambiguous"),
        ("monitors:\n  a: {every: 1.5e+3}", 2, "ambiguous"),
        ("monitors:\n  a: {every: 0o17}", 2, "0o17 is ambiguous"),
        ("windows:\n  w: {oncalendar: 12:00, duration: 1h}", 2, "put text in quotes"),
        ("monitors:\n  a: {name: no}", 2, "no is ambiguous: write true or false, or put it in quotes"),
        ("monitors:\n  a: {tags: [eu, NO]}", 2, "NO is ambiguous"),
        ("monitors:\n  a: {paused: Yes}", 2, "Yes is ambiguous"),
        ("channels:\n  c: {kind: log, default: off}", 2, "off is ambiguous"),
        ("monitors:\n  on: {every: 1h}", 2, "the key on is not text"),
        ("monitors:\n  0123: {every: 1h}", 2, "the key 0123 is not text"),
        ("monitors:\n  ~: {every: 1h}", 2, "the key ~ is not text"),
        ("monitors:\n  ? [a]\n  : {every: 1h}", 2, "is not text"),
        ("monitors:\n  a: {name: !!binary aGk=}", 2, "the tag !!binary is not supported"),
        ("monitors: &m\n  a: *m", 1, "recursive"),
        ("monitors:\n  a:\n    cron: @daily", 3, "put text that begins with @ in quotes"),
        ("monitors:\n  a:\n    cron: */5 * * * *", 3, "put text that begins with * in quotes"),
        ("monitors:\n  a:\n    oncalendar: *-*-* 02:00", 3, "put text that begins with * in quotes"),
        ("monitors:\n  a:\n    name: `x`", 3, "put text that begins with ` in quotes"),
        ("monitors:\n\ta: {every: 1h}", 2, "indent with spaces, not with tabs"),
        ("monitors:\n  a:\n    every: 1h\n\tgrace: 1m", 4, "indent with spaces, not with tabs"),
        ("monitors:\n  a:\n    name: a: b", 3, "put text that holds a colon and a space in quotes"),
        ("monitors: {}\n---\nmonitors: {}", 2, "the file must be one document"),
        ("monitors:\n  a: {name: '\x01'}", 2, "must be UTF-8 without control characters"),
    ],
)  # fmt: skip
def test_what_says_two_things_is_refused_with_its_line(tmp_path: Path, text: str, line: int, problem_text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, text)
    assert f"line {line}" in str(refused.value) and problem_text in str(refused.value), refused.value


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    (path := tmp_path / "config.yaml").write_bytes("monitors:\n  a: {every: 1h, name: Größe}\n".encode("latin-1"))
    with pytest.raises(SettingsError, match="line 2: the file must be UTF-8"):
        read_config(path)


@pytest.mark.parametrize(
    ("sent", "field", "problem_text"),
    [
        ({"period": "5m"}, "period", "there is no such field: use every"),
        ({"Every": "5m"}, "Every", "use every"),
        ({"maxRuntime": "5m"}, "maxRuntime", "use max_runtime"),
        ({"max-runtime": "5m"}, "max-runtime", "use max_runtime"),
        ({"schedule": "0 2 * * *"}, "schedule", "use cron"),
        ({"recover_afer": 2}, "recover_afer", "use recover_after"),
        ({"enabled": False}, "enabled", "there is no such field"),
        ({"stages": "a, b"}, "stages", "must be a list, such as [a, b]"),
        ({"fail_after": "two"}, "fail_after", "must be a whole number"),
        ({"fail_after": 0}, "fail_after", "must be at least 1"),
        ({"cron": 5}, "cron", "must be text"),
        ({"every": "1M"}, "every", "may be minutes or months"),
        ({"cron": "@every 5m"}, "cron", "write the length of time as every"),
        ({"cron": "@reboot"}, "cron", "has no schedule"),
        ({"cron": "CRON_TZ=Europe/Berlin 0 2 * * *"}, "cron", "write the time zone as timezone"),
        ({"cron": "0 2 * * * Europe/Berlin"}, "cron", "write the time zone as timezone"),
        ({"cron": "0 0 2 * * *"}, "cron", "leave out seconds"),
        ({"cron": "0 2 * * * root"}, "cron", "the user"),
        ({"timezone": "europe/berlin "}, "timezone", "use Europe/Berlin"),
        ({"tags": ["a b"]}, "tags.0", "must have no spaces"),
        ({"tags": [""]}, "tags.0", "must not be empty"),
    ],
)
def test_a_wrong_field_says_what_to_write(sent: dict[str, object], field: str, problem_text: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        read_definition(sent)
    (problem,) = refused.value.problems
    assert problem.field == field and problem_text in problem.reason, problem


def test_what_is_clear_is_read(tmp_path: Path) -> None:
    text = """
monitors:
  a: &usual {every: 90, grace: 1.5, paused: true, name: 2026-01-01, tags: ["no", '0600', v1.2.3, 3f7a, 1.2.3]}
  b: {<<: *usual, grace: 0, description: "24:00", count_outages: False}
  c: {<<: [{every: 1h}, {every: 2h, grace: 5m}], grace: ~}
  d:
windows:
  w: {start: 2026-12-24T10:00:00+01:00, end: 2026-12-24 12:00:00Z}
"""
    usual = {"every": 90, "grace": 1.5, "paused": True, "name": "2026-01-01"}
    usual["tags"] = ["no", "0600", "v1.2.3", "3f7a", "1.2.3"]
    assert read(tmp_path, text) == {
        "monitors": {
            "a": usual,
            "b": {**usual, "grace": 0, "description": "24:00", "count_outages": False},
            "c": {"every": "1h", "grace": None},
            "d": None,
        },
        "windows": {"w": {"start": "2026-12-24T10:00:00+01:00", "end": "2026-12-24 12:00:00Z"}},
    }
    read_definition({"every": 90, "grace": 1.5})


@pytest.mark.parametrize(
    ("text", "problem_text"),
    [
        ('{"monitors": {"a": {},\n "b": {},\n "a": {}}}', "line 3: the key 'a' is given twice, first in line 1"),
        ('{"monitors":\n[{"slug": "a",\n"slug": "b"}]}', "line 3: the key 'slug' is given twice, first in line 2"),
        ('{"a": "{\\"a\\": 1}", "b": ["a", "a"],\n\n"\\u0061": 1}', "line 3: the key 'a' is given twice"),
        ('{"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}, {"x": 1, "y": [1, {"y": 1, "x": 2}],\n"y": 3}]}',
         "line 2: the key 'y' is given twice, first in line 1"),
    ],
)  # fmt: skip
def test_a_key_twice_in_json_is_refused_with_its_line(tmp_path: Path, text: str, problem_text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, text, "config.json")
    assert problem_text in str(refused.value)
    with pytest.raises(ValueError, match="is given twice"):
        read_json(text.encode())


def test_json_without_repetitions_is_read_as_it_is() -> None:
    for value in ({}, [], {"a": {"a": [{"a": 1}, {"a": 1}]}}, [{"x": "x"}, "x"], "x", None, 1.5):
        assert read_json(orjson.dumps(value)) == value
    with pytest.raises(ValueError, match="depth limit"):
        read_json(b"[" * 5_000 + b"]" * 5_000)


def test_what_is_written_is_read_back_the_same(tmp_path: Path) -> None:
    texts = ["1e3", "12e03", "0o17", "no", "24:00", "0600", "010", "2026-01-01", "1_000", "~", "", "<<", "a: b", "ü"]
    config = {"monitors": {text or "empty": {"name": text, "tags": texts, "grace": 1.5} for text in texts}}
    with (tmp_path / "config.yaml").open("w") as file:
        write_config(config, file)
    assert read_config(tmp_path / "config.yaml") == config


def test_variables_stand_for_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "t0ken")
    monkeypatch.setenv("HOOK_PATH", "a/b")
    text = """
channels:
  hook:
    kind: webhook
    url: https://hooks.example.org/${HOOK_PATH}
    headers: {Authorization: "Bearer ${HOOK_TOKEN}", X: $HOOK_TOKEN}
    body: "{{title}} $${HOME}"
monitors:
  a: {description: "echo ${HOME}", key: "k-${HOOK_TOKEN}", keys: [{key: "${HOOK_TOKEN}"}]}
projects:
- {slug: shop, ping_key: "0123456789abcdef${HOOK_TOKEN}"}
"""
    read_yaml = read(tmp_path, text)
    hook = read_yaml["channels"]["hook"]
    assert hook["url"] == "https://hooks.example.org/a/b"
    assert hook["headers"] == {"Authorization": "Bearer t0ken", "X": "$HOOK_TOKEN"}
    assert hook["body"] == "{{title}} ${HOME}"
    assert read_yaml["monitors"]["a"] == {"description": "echo ${HOME}", "key": "k-t0ken", "keys": [{"key": "t0ken"}]}
    assert read_yaml["projects"][0]["ping_key"] == "0123456789abcdeft0ken"
    as_json = orjson.dumps({"channels": {"hook": {"url": "https://${HOOK_PATH}"}}}).decode()
    assert read(tmp_path, as_json, "config.json")["channels"]["hook"]["url"] == "https://a/b"


@pytest.mark.parametrize(
    ("value", "problem_text"),
    [
        ("${OFFBEAT_TEST_UNSET}", "channels.hook.headers.A: the environment variable OFFBEAT_TEST_UNSET is not set"),
        ("x${OFFBEAT_TEST_EMPTY}", "OFFBEAT_TEST_EMPTY is not set, or is empty"),
        ("${A-B}", "must be ${NAME}"),
        ("${A:-default}", "must be ${NAME}"),
        ("${}", "must be ${NAME}"),
    ],
)
def test_a_variable_that_cannot_be_replaced_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, problem_text: str
) -> None:
    monkeypatch.setenv("OFFBEAT_TEST_EMPTY", "")
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, f'channels: {{hook: {{kind: webhook, headers: {{A: "{value}"}}}}}}')
    assert problem_text in str(refused.value)
