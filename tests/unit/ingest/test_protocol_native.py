"""The native protocol: where a signal may stand, what a body is taken for, and what is refused with which sentence."""

import gzip
import sys
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from offbeat_server.engine.model.ping import PLAIN, Ping
from offbeat_server.ingest.protocols import native
from offbeat_server.ingest.protocols.base import KeyAddress, Outcome, ParsedPing, Rejection, Request
from offbeat_server.ingest.protocols.parsing.ids import canonical_run
from offbeat_server.ingest.protocols.parsing.parameters import ReadParameters, read_fields

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KEY = "8a1cc1de-1b0e-4f7c-9a3b-2d6c0a0b7c11"
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


def send(rest: str = "", body: bytes | str = b"", kind: str = "", method: str = "GET") -> ParsedPing | Rejection:
    path, _, query = f"/api/v1/heartbeat/{KEY}{rest}".partition("?")
    raw = body.encode() if isinstance(body, str) else body
    return native.read(Request(method, path, query, {"content-type": kind} if kind else {}, raw))


def ping(rest: str = "", body: bytes | str = b"", kind: str = "") -> Ping:
    reading = send(rest, body, kind, "POST" if body else "GET")
    assert isinstance(reading, ParsedPing), reading
    assert reading.address == KeyAddress(KEY)
    return reading.ping


def ignored(rest: str = "", body: bytes | str = b"", kind: str = "") -> list[str]:
    """The details that were left out or changed."""
    reading = send(rest, body, kind, "POST" if body else "GET")
    assert isinstance(reading, ParsedPing), reading
    return [note.field for note in reading.notes]


def refusal(rest: str = "", body: bytes | str = b"", kind: str = "") -> str:
    refused = send(rest, body, kind, "POST" if body else "GET")
    assert isinstance(refused, Rejection), refused
    assert refused.status in (400, 415)
    return refused.reason


def test_the_signal_in_the_path() -> None:
    assert send() == ParsedPing(KeyAddress(KEY), Ping("success"), named=False)
    assert send("/start") == ParsedPing(KeyAddress(KEY), Ping("start"), named=True)
    assert send("/fail/") == send("/%66ail") == ParsedPing(KeyAddress(KEY), Ping("fail"), named=True)
    assert ping("/in%20progress").signal == "start"
    assert send("/start%0D") == send("/start") and send("/0%0D%0A") == send("/0")
    assert send("/0") == ParsedPing(KeyAddress(KEY), Ping("success", exit_code=0), named=True)
    assert send("/255") == ParsedPing(KeyAddress(KEY), Ping("fail", exit_code=255), named=True)
    for signal in ("start", "success", "fail", "log", "progress", "skip", "leave"):
        assert ping(f"/{signal}") is PLAIN[signal]


@pytest.mark.parametrize("status", ["ok", "up", "complete", "Completed", "DONE", "finished", "success"])
def test_words_for_success(status: str) -> None:
    assert ping(f"?status={status}").signal == "success"


@pytest.mark.parametrize("status", ["error", "failed", "failure", "down", "Fail"])
def test_words_for_failure(status: str) -> None:
    assert ping(f"?status={status}").signal == "fail"


@pytest.mark.parametrize(
    "status", ["started", "begin", "run", "running", "in_progress", "in-progress", "In%20Progress"]
)
def test_words_for_a_start(status: str) -> None:
    assert ping(f"?status={status}").signal == "start"


def test_parameters_in_the_query() -> None:
    read = ping("?status=progress&run=7&stage=load&task=part%201&done=3&total=10&duration=1h30m&message=half+way")
    assert read == Ping("progress", "7", "load", "part 1", 3, 10, None, 5400.0, "half way")
    assert ping("/start?rid=x").run == "x"
    assert ping("?exit_code=3") == Ping("fail", exit_code=3)
    assert ping("?exit_code=0") == Ping("success", exit_code=0)
    assert ping("/fail?exit_code=3") == Ping("fail", exit_code=3)
    assert ping("?duration=2.5").duration == 2.5
    assert ping("?run=&stage=&task=&message=") is PLAIN["success"]
    assert ping("?utm_source=x&%00=%00") is PLAIN["success"]
    assert ping("?done=11&total=10").done == 11


def test_the_same_in_a_json_body() -> None:
    body = {"status": "progress", "run": 7, "stage": "load", "task": "p", "done": 3, "total": "10", "duration": 90}
    expected = Ping("progress", "7", "load", "p", 3, 10, None, 90.0)
    assert ping("", orjson.dumps(body), JSON) == expected
    assert ping("", orjson.dumps(body), "application/json; charset=utf-8") == expected
    assert ping("", orjson.dumps(body), FORM) == expected  # what curl -d declares
    assert ping("", b" \n" + orjson.dumps(body)) == expected
    assert ping("", '{"status": "fail", "message": {"rows": 3}, "host": "db1"}', JSON).message == '{"rows":3}'
    assert ping("", '{"run": null, "done": 5.0, "message": ""}', JSON) == Ping(done=5)
    assert ping("?run=a", '{"run": "b", "status": "start"}', JSON) == Ping("start", run="a")


def test_the_same_in_a_form() -> None:
    assert ping("", "status=fail&message=disk full", FORM) == Ping("fail", message="disk full")
    assert ping("?stage=x", "run=7&task=a%20b&status=start", FORM) == Ping("start", run="7", task="a b", stage="x")
    for text in (
        "'status=fail&message=disk full'",
        '"status=fail&message=disk full"',
        "&status=fail&message=disk full&",
    ):
        assert ping("", text, FORM) == Ping("fail", message="disk full"), text
    assert ping("", "Status=Failed&Message=disk+full&ExitCode=3") == Ping("fail", exit_code=3, message="disk full")


@pytest.mark.parametrize(
    "output",
    [
        "rows=3&status=ok",
        "status",
        "3 files copied, 100% & done",
        "a=b",
        "",
        "{",
        "{}",
        '{"rows": 5}',
        "[1]",
        "run=%ff&x",
    ],
)
def test_any_other_body_is_the_message(output: str) -> None:
    for kind in ("", FORM, "text/plain", "application/octet-stream"):
        assert ping("/1", output, kind) == Ping("fail", exit_code=1, message=output or None)
        assert ping("", output, kind).message == (output or None)


OUTPUTS = [
    '{"status": "healthy"}',
    '{"status": "weird"}',
    '{"status":"error","task":"backup","message":"disk full"}',
    '{"stage":"production","message":"nightly backup finished"}',
    '{"task":"r1A2WoRbTwKZ516z6NEs5A:36619"}',
    '{"run": 7, "exit_code": 3}',
    "stage=production",
    "status=fail&run=7",
    "run=%ff",
    "<status>failed</status>",
    '[{"status": "failed"}]',
]


@pytest.mark.parametrize("kind", ["", FORM, JSON, "text/plain", "application/xml", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_body_never_changes_what_path_and_query_say(output: str, kind: str) -> None:
    assert ping("/0", output, kind) == Ping("success", exit_code=0, message=output)
    assert ping("/start", output, kind) == Ping("start", message=output)
    assert ping("?status=ok&run=9", output, kind) == Ping("success", run="9", message=output)
    assert ping("?exit_code=2", output, kind) == Ping("fail", exit_code=2, message=output)


def test_parameters_in_a_body_that_is_the_message_are_named() -> None:
    assert ignored("/start", "run=7&stage=x", FORM) == ["body"]
    assert ignored("/start", '{"run": 7}', JSON) == ["body"]
    assert ignored("/start", "rows=7&stage=x", FORM) == ignored("/0", "all done") == []


def test_text_is_a_message_but_none_that_says_a_failure() -> None:
    assert ping("", '{"stage": "production"}', "text/plain") == Ping(message='{"stage": "production"}')
    for body in ('{"status": "fail"}', '{"status": "weird"}', '{"exitCode": 3}', '{"ok": false}'):
        assert "declare it as application/json" in refusal("", body, "text/plain;charset=UTF-8")
    for kind in ("text/plain", "text/html", "application/octet-stream", "application/javascript"):
        for body in ("status=fail&message=m", "rc=3", "status=start", "'status=fail'"):
            assert "declare it as application/x-www-form" in refusal("", body, kind), (body, kind)
        for body in ('{"status": "fail"}', "status: failed", "failed", '{"status": "fail",}'):
            assert refusal("", body, kind), (body, kind)
        for body in (
            "status=ok",
            "rows=3&x=4",
            "3 files copied, 0 failed",
            "failed to lock, tried again, ok",
            '{"a": 1}',
        ):
            assert ping("", body, kind) == Ping(message=body), (body, kind)


def test_a_packed_body_says_its_coding_or_nothing() -> None:
    for body in (gzip.compress(b"status=fail"), zstd.compress(b"status=fail")):
        for kind in (FORM, "", "application/gzip", "application/octet-stream", "text/plain"):
            refused = send("", body, kind, "POST")
            assert isinstance(refused, Rejection) and refused.status == 415 and "Content-Encoding: " in refused.reason
        ping = send("/fail", body, FORM, "POST")[1]
        assert isinstance(ping, Ping) and ping.signal == "fail"


def test_a_form_with_other_fields_is_read_if_the_path_names_no_signal() -> None:
    body = "host=db1&status=fail&run=7"
    assert ping("", body, FORM) == Ping("fail", run="7", message=body)
    assert ping("", f"{body}&message=disk+full", FORM) == Ping("fail", run="7", message="disk full")
    assert ping("/0", body, FORM) == Ping("success", exit_code=0, message=body)
    assert ping("", "x=%ff&status=fail", FORM) == Ping("fail", message="x=%ff&status=fail")
    assert "purple" in refusal("", "host=db1&status=purple", FORM)
    assert "status fail" in refusal("", "my host=db1&status=fail", FORM)
    for output in ("host=db1&run=7", "my host=db1&run=7", "all is well & the status=fail of yesterday is gone"):
        assert ping("", output, FORM) == Ping("success", message=output)


@pytest.mark.parametrize("charset", ["", "; charset=iso-8859-1", '; charset="Windows-1252"', "; charset=nonsense"])
def test_text_in_latin_1(charset: str) -> None:
    expected = Ping("fail", message="Größe – 5 €")
    for kind in (FORM, JSON, "text/json", "application/problem+json"):
        body = '{"status": "fail", "message": "Größe – 5 €"}'.encode("cp1252")
        assert ping("", body, kind + charset) == expected
    assert ping("", "status=fail&message=Größe – 5 €".encode("cp1252"), FORM + charset) == expected
    assert ping("", b"status=fail&message=Gr%F6%DFe%20%96%205%20%80", FORM) == expected
    assert ping("/fail", "Größe – 5 €".encode("cp1252"), "text/plain" + charset) == expected
    for query in ("/fail?message=Datentr%E4ger", "?status=fail&message=Datentr%E4ger"):
        assert ping(query) == Ping("fail", message="Datenträger")
    assert ping("/1?message=%E4") == Ping("fail", exit_code=1, message="ä")


def test_a_byte_that_is_not_utf_8_costs_no_other() -> None:
    assert ping("/fail", "größe ".encode() + b"\xe4 end").message == "größe ä end"
    cut = "ä€".encode()[1:-1]  # as `tail -c` and `head -c` leave it
    assert ping("/fail", cut).message == "¤â‚" and ping("/fail", cut + "ö".encode()).message == "�â‚ö"
    assert ping("/fail", "größe\n".encode("koi8-r", "replace"), "text/plain; charset=koi8-r").message == "gr??e\n"
    assert ping("/fail", "размер".encode("koi8-r"), "text/plain; charset=koi8-r").message == "размер"
    for encoding in ("utf-16-le", "utf-16-be", "utf-16", "utf-32"):
        assert ping("/fail", "Größe".encode(encoding), f"text/plain; charset={encoding}").message == "Größe"
    assert ping("/fail", "grow: ä".encode("utf-16-le")).message == "grow: ä"  # no mark, none declared


@pytest.mark.parametrize("kind", ["", FORM, JSON, "application/json; charset=utf-16"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_parameters_in_a_file_that_windows_wrote(encoding: str, kind: str) -> None:
    assert ping("", '{"status": "fail", "message": "Größe"}\r\n'.encode(encoding), kind) == Ping(
        "fail", message="Größe"
    )
    assert ping("/0", "3 files".encode(encoding)).message == "3 files"
    assert ping("", "status=start&run=7\r\n".encode(encoding), FORM) == Ping("start", run="7")


def test_json_without_a_parameter_is_the_message() -> None:
    assert ping("/fail", b'{"error": "disk full"}', JSON) == Ping("fail", message='{"error": "disk full"}')
    assert ping("", b"{}", JSON) is PLAIN["success"]


def test_a_parameter_outranks_a_raw_body() -> None:
    assert ping("?message=short", "long output").message == "short"


def test_a_long_body_is_cut_once() -> None:
    message = ping("/fail", "x" * 50_000).message
    assert message is not None
    assert message.count("cut here") == 1
    assert message.startswith("x" * 2_000)
    assert message.endswith("x" * 8_000)


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("/bogus", "use start, success, fail"),
        ("/start/x", "use start"),
        ("?status=strat", "'strat'"),
        ("?status=", "status is empty"),
        ("?exit_code=", "exit_code is empty"),
        ("?success=", "success is empty"),
        ("?status=%ff", "unknown status"),
        ("?exit_code=kaputt", "exit_code must be a number"),
        ("?success=kaputt", "success must be true or false"),
        ("?code=500", "may be an exit code or not"),
        ("?result=1", "unknown status"),
        ("?phase=Failed", "'phase' looks like the outcome"),
        ("?status=start&status=ok", "leave one out"),
    ],
)
def test_an_outcome_that_cannot_be_read_is_refused_with_a_sentence(rest: str, says: str) -> None:
    assert says in refusal(rest)


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ("done=-1", "done"),
        ("done=9223372036854775808", "done"),
        ("done=12.5", "done"),
        ("done=1,000", "done"),
        ("total=many", "total"),
        ("duration=-1", "duration"),
        ("duration=soon", "duration"),
        ("duration=nan", "duration"),
        ("duration=1,000", "duration"),
        ("duration=1:30", "duration"),
        ("exit_code=99999999999999999999999", "exit_code"),
        ("exit_code=kaputt", "exit_code"),
        ("status=strat", "status"),
        ("success=kaputt", "success"),
    ],
)
def test_a_detail_that_cannot_be_read_is_named_and_costs_nothing_else(sent: str, field: str) -> None:
    for rest in ("/fail?", "?status=fail&", "/fail?run=7&"):
        assert ping(rest + sent) == ping(rest.rstrip("?&")) and ignored(rest + sent) == [field], rest
    if field in ("done", "total", "duration"):
        assert ping(f"?{sent}") == Ping() and ignored(f"?{sent}") == [field]


def test_what_is_empty_was_not_sent() -> None:
    names = ("duration", "done", "total", "exit_code", "message", "run", "stage", "task", "status", "success", "error")
    for name in names:
        assert send(f"/fail?{name}=") == send("/fail"), name
        assert send(f"?status=fail&{name}=") == send("?status=fail"), name
    assert send("?duration=&done=&run=&error=") == send("")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12.5", 12.5), ("1,5", 1.5), ("00:01:23", 83.0), ("1.02:00:00", 93_600.0), ("00:00:01.5", 1.5), ("PT5S", 5.0),
     ("P1DT1H", 90_000.0), ("1h30m", 5_400.0), ("90 s", 90.0), ("1e3", 1_000.0), ("0.1234567890123", 0.123457)],
)  # fmt: skip
def test_durations_as_programs_write_them(text: str, seconds: float) -> None:
    assert ping(f"/fail?duration={quote(text)}").duration == pytest.approx(seconds)


@pytest.mark.parametrize("code", [256, 1_000, -1, -9, 3221225477, -1073741819, 2**32 - 1, -(2**31)])
def test_exit_codes_of_other_systems_are_failures_and_keep_their_number(code: int) -> None:
    expected = Ping("fail", exit_code=code)
    assert ping(f"/{code}") == ping(f"?exit_code={code}") == ping(f"/fail?exit_code={code}") == expected
    assert ping("", f'{{"exit_code": {code}}}', JSON) == ping("", f"ExitCode={code}", FORM) == expected
    assert ping(f"?rc={code}.0") == expected
    assert ping("/0xC0000005").exit_code == 0xC0000005


def test_an_exit_code_out_of_all_bounds_is_a_failure_without_its_number() -> None:
    for rest in ("/99999999999999999999999", "?exit_code=99999999999999999999999", "/-99999999999"):
        assert ping(rest) == PLAIN["fail"] and ignored(rest) == ["exit_code"]
    assert ping("", b'{"exit_code": 99999999999999999999}', JSON) == PLAIN["fail"]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("KILL", Ping("fail", exit_code=137, message="killed by SIGKILL")),
        ("TERM", Ping("fail", exit_code=143, message="killed by SIGTERM")),
        ("SIGABRT", Ping("fail", exit_code=134, message="killed by SIGABRT")),
        *((result, Ping("fail", message=result)) for result in (
            "oom-kill", "timeout", "signal", "exit-code", "core-dump", "watchdog", "start-limit-hit", "resources",
        )),
        ("success", Ping("success")),
    ],
)  # fmt: skip
def test_the_words_of_systemd_in_the_place_of_an_exit_code(result: str, expected: Ping) -> None:
    assert (
        ping(f"/{result}")
        == ping(f"/{result.lower()}")
        == ping(f"?exit_code={result}")
        == ping("", f"exit_code={result}", FORM)
        == expected
    )
    assert ping(f"/{result}", "disk full").message == "disk full"
    assert ping(f"?EXIT_STATUS={result}").signal == expected.signal


def test_ids_are_shortened_and_never_left_out() -> None:
    for name, chars_max in (("run", 255), ("stage", 100), ("task", 255)):
        long = "x" * 300
        read = ping(f"/fail?{name}={long}")
        kept = getattr(read, name)
        assert len(kept) == chars_max and kept.startswith("x" * 80) and ignored(f"/fail?{name}={long}") == [name]
        assert kept == getattr(ping("", f'{{"status": "ok", "{name}": "{long}"}}', JSON), name)
        assert kept != getattr(ping(f"/fail?{name}={long}y"), name)
        assert getattr(ping(f"?{name}=a%00b"), name) == "a\ufffdb"
        assert getattr(ping(f"?{name}=a%0D"), name) == getattr(ping(f"?{name}=a%0D%0A"), name) == "a"
        assert getattr(ping("", f'{{"{name}": ["x", true]}}', JSON), name) == '["x",true]'


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (("2026-11-29T02:00:00+01:00", "2026-11-29T02:00:00%2B01:00", "2026-11-29T02:00:00%2b01%3A00",
          "2026-11-29T02:00:00%2001:00"), "2026-11-29T02:00:00+01:00"),
        (("scheduled__2026-11-29T02:00:00.123456+00:00",), "scheduled__2026-11-29T02:00:00.123456+00:00"),
        (("a+b", "a%20b", "a%2Bb"), "a b"),
        (("02:00:00+%2B0100", "02:00:00%20+0100"), "02:00:00 +0100"),
        (("c%2B%2B", "c++", "c%20%20"), "c  "),
    ],
)  # fmt: skip
def test_a_run_is_the_same_however_plus_and_space_were_encoded(sent: tuple[str, ...], stored: str) -> None:
    for run in sent:
        assert ping(f"/start?run={run}").run == ping("?rid=" + run).run == stored
        assert ping("", f"run={run}", FORM).run == stored
    assert ping("", orjson.dumps({"run": stored}), JSON).run == stored
    assert canonical_run(stored) == stored


FAILURES = [
    {"Status": "Failed", "Message": "m", "ExitCode": 3},
    {"exitCode": 3, "message": "m"},
    {"state": "fail", "message": "m"},
    {"STATE": "FAILED"},
    {"return_code": 3},
    {"returncode": -9},
    {"rc": "1"},
    {"exit-code": 1.0},
    {"result": "failure"},
    {"outcome": "error"},
    {"success": False},
    {"success": "false"},
    {"Success": 0},
    {"ok": False, "rows": 5},
    {"passed": True, "failed": 2},
    {"failed": True},
    {"error": "disk full"},
    {"job_status": "failed"},
    {"buildResult": "FAILURE"},
    {"status": "completed", "success": False},
    {"status": "Completed", "exitCode": 3},
    {"status": "finished", "error": "disk full"},
    {"status": "completed", "conclusion": "failure"},
    {"status": "ok", "result": "failed"},
    {"status": "timed_out"},
    {"is_success": False},
    {"isOk": False},
    {"hasFailed": True},
    {"has_errors": "yes"},
    {"jobExitCode": 3},
    {"healthy": "no"},
    {"status": "ok", "failed": True},
    {"success": True, "failed": True},
    {"status": "ok", "error": "disk full"},
    {"status": "ok", "failed": "yes", "exit_code": 0},
    {"exit_code": 0, "error": "disk full"},
    {"ok": True, "errors": ["x"]},
    {"error": {"code": 0, "message": "disk full"}},
    {"error": "No error handler for this"},
    {"errors": "0 errors, 3 failures"},
    {"error": {"success": False}},
    {"status": "ok", "success": False},
    {"status": "running", "healthy": False},
    {"status": "running", "result": "failed"},
    {"passed": "false", "rows": 5},
    {"isHealthy": False},
    {"alive": False},
    {"online": "no"},
    {"up": 0},
    {"is_up": "0"},
    {"errorMessage": "disk full"},
    {"err": "disk full"},
    {"stacktrace": "x.py:3"},
    {"error_count": 3},
    {"numFailed": 1},
    {"backup_failed": True},
    {"tests_failed": 2},
    {"job_success": False},
    {"exit_value": 3},
    {"jobRC": 3},
    {"dag_state": "failed"},
    {"exitState": "Failed"},
    {"status": "OOMKilled"},
    {"status": "upstream_failed"},
    {"status": "offline"},
    {"status": "'fail'"},
    {"status": "fail;"},
    {"status": "Failed!"},
    {"'status": "fail"},
    {"status[]": "fail"},
    {"job[status]": "failed"},
    {"\ufeffstatus": "fail"},
    {"exit_code": "RTMIN+3"},
    {"exit_code": "9" * 500},
]


@pytest.mark.parametrize(
    ("query", "signal"),
    [
        ("status=fail&error=open%20/srv/start", "fail"),
        ("status=fail&task=db/start", "fail"),
        ("status=success&task=1/4", "success"),
        ("run=1/12", "success"),
        ("error=open /srv/start", "fail"),
        ("message=see /srv/fail", "success"),
    ],
)
def test_a_name_may_end_like_a_signal(query: str, signal: str) -> None:
    assert ping("?" + query).signal == signal


@pytest.mark.parametrize("sent", FAILURES)
def test_an_outcome_under_another_name_is_understood(sent: dict[str, Any]) -> None:
    for kind in (JSON, FORM, "", "text/json", "application/x-json", "application/problem+json; charset=utf-8"):
        assert ping("", orjson.dumps(sent), kind).signal == "fail", kind
    text = "&".join(f"{name}={str(value).lower()}".replace("+", "%2B") for name, value in sent.items())
    assert ping(f"?{text.replace(' ', '+')}").signal == ping("", text, FORM).signal == ping("", text).signal == "fail"
    parameters = read_fields(sent.items())
    assert isinstance(parameters, ReadParameters) and parameters.ping.signal == "fail" and parameters.named


@pytest.mark.parametrize(
    "query",
    [
        *("run=7/fail", "run=7/start", "create=1/fail", "create=1/3", "x/fail", "utm=a/Fail/"),
        *("run=7?status=fail", "x=1?rc=3", "x=1?fail", "fail?run=7", "start?run=7", "status=success&run=7/fail"),
        *("status%3Dfail", "status%3Dfail%26message%3Dx", "status:fail", "%7B%22status%22%3A%22fail%22%7D"),
        *("crashed=true", "oom_killed=1", "timed_out=yes", "isCompleted=false", "http_code=502", "errno=2"),
        *("payload={%22status%22:%22fail%22}", "data[status]=fail"),
    ],
)
def test_an_outcome_in_the_wrong_place_is_refused(query: str) -> None:
    assert refusal(f"?{query}")


def test_what_only_resembles_an_outcome_is_none() -> None:
    for query in (
        *("run=2026/11/30", "task=a/3", "message=see/fail", "msg=x?status=fail", "url=http://a/b?c=d", "run=7%2Ffail"),
        *("crashes=0", "killed=0", "down=1", "timeout=1", "err=%3Cnil%3E", "errorMessage=", "error_count=0"),
        *("http_code=200", "responseCode=304", "last_error=disk+full", "x={%22rows%22:3}", "run=%20&task=%C2%A0"),
    ):
        assert ping(f"?{query}").signal == "success", query
    assert ping("?run=%20&task=%C2%A0&stage=%09") is PLAIN["success"]
    assert ping("/start?run=7/fail") == Ping("start", run="7/fail")


def test_a_name_without_a_value_may_be_the_signal() -> None:
    for flag, signal in (
        *(("fail", "fail"), ("Failed", "fail"), ("failure", "fail"), ("start", "start"), ("log", "log")),
        *(("success", "success"), ("ok", "success"), ("OK", "success"), ("is_ok", "success"), ("completed", "success")),
        *(("error", "fail"), ("errors", "fail"), ("exception", "fail"), ("crashed", "fail"), ("has_failed", "fail")),
        *(("run=7&ok", "success"), ("message=a+b&error", "fail"), ("ok&error", "fail"), ("finished&rc=3", "fail")),
    ):
        reading = send(f"?{flag}")
        assert isinstance(reading, ParsedPing) and reading.named and reading.ping.signal == signal, flag
    assert ping("?error=").signal == ping("?exception=").signal == "success"
    assert "ok is empty" in refusal("?ok=") and "status is empty" in refusal("?status")
    assert send("?utm_source&x") == send("") and send("?run&message") == send("")


@pytest.mark.parametrize(
    "sent",
    [
        *("success", "OK", "No errors", "no error.", "0 errors", "0 errors, 2 warnings", "no errors found", "NO_ERROR"),
        *(
            "The operation completed successfully.",
            "the operation completed successfully",
            "ERROR_SUCCESS",
            "undefined",
        ),
        *("0 errors, 0 failures", {"count": 0}, {"code": 0, "message": ""}, [None, ""], [[], {}], {"a": {"b": [0]}}),
    ],
)
def test_an_error_that_says_that_there_is_none(sent: Any) -> None:
    for name in ("error", "errors", "failed", "has_errors"):
        assert ping("", orjson.dumps({name: sent}), JSON).signal == "success", name
        assert ping("", orjson.dumps({"exit_code": 0, name: sent}), JSON) == Ping(exit_code=0), name
        assert ping("", orjson.dumps({"job": {name: sent}}), JSON).signal == "success", name
    if isinstance(sent, str):
        assert ping(f"?error={quote(sent)}") is PLAIN["success"]
        assert ping("", f"error={quote(sent)}", FORM) == PLAIN["success"]


def test_an_error_deeper_than_the_stack_is_one() -> None:
    deep = b"[" * 1_000 + b"%s" + b"]" * 1_000
    assert ping("", b'{"error": ' + deep % b'"x"' + b"}", JSON).signal == "fail"
    assert ping("", b'{"error": ' + deep % b"0" + b"}", JSON).signal == "success"


@pytest.mark.parametrize(
    ("sent", "expected", "left_out"),
    [
        ({"status": "running", "finished": False}, Ping("start"), ["status"]),
        ({"state": "running", "completed": False, "progress": 40}, Ping("start"), ["status"]),
        (
            {"status": "progress", "complete": False, "done": 4, "total": 9},
            Ping("progress", done=4, total=9),
            ["status"],
        ),
        ({"status": "running", "done": False}, Ping("start"), ["done"]),
        ({"status": "in_progress", "success": False}, Ping("start"), ["success"]),
        ({"success": False, "status": "in_progress"}, Ping("start"), ["success"]),
        ({"status": "progress", "passed": False}, Ping("progress"), ["success"]),
        ({"status": "progress", "ok": "no"}, Ping("progress"), ["success"]),
        ({"status": "progress", "failed": 2}, Ping("progress"), ["error"]),
        ({"status": "running", "exit_code": 3}, Ping("start", exit_code=3), ["exit_code"]),
        ({"status": "ok", "exit_code": 3}, Ping("success", exit_code=3), ["exit_code"]),
        ({"exit_code": 0, "finished": False}, Ping("success", exit_code=0), ["status"]),
        ({"status": "fail", "finished": "no"}, Ping("fail"), ["status"]),
    ],
)
def test_what_does_not_decide_is_named(sent: dict[str, Any], expected: Ping, left_out: list[str]) -> None:
    text = "&".join(f"{name}={str(value).lower()}" for name, value in sent.items())
    assert ping("", orjson.dumps(sent), JSON) == ping(f"?{text}") == expected
    assert ignored("", orjson.dumps(sent), JSON) == ignored(f"?{text}") == left_out
    assert ping("", text, FORM)._replace(message=None) == expected and ignored("", text, FORM) == left_out


@pytest.mark.parametrize("name", ["finished", "Completed", "complete", "done", "ended"])
def test_a_job_that_has_not_ended_has_no_outcome(name: str) -> None:
    for value in ("false", "no"):
        assert "has not ended" in refusal(f"?{name}={value}") and "has not ended" in refusal(
            "", f"{name}={value}", FORM
        )
        assert ping(f"/start?{name}={value}") == PLAIN["start"]
    assert "has not ended" in refusal("", orjson.dumps({name: False, "rows": 5}), JSON)


def test_successes_in_other_words() -> None:
    for sent in ({"ok": True}, {"Success": "true", "error": None}, {"status": "OK", "errors": []}, {"rc": 0},
                 {"failed": 0, "passed": 120}, {"error": ""}, {"status": "ok", "result": {"rows": 3}},
                 {"status": "success", "exit_code": 24}):  # fmt: skip
        assert ping("", orjson.dumps(sent), JSON).signal == "success", sent


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'"fail"', "must be a JSON object"),
        (b'{"status": true}', "unknown status True"),
        (b'{"status": 3}', "unknown status 3"),
        (b'{"status": ["fail"]}', "a list"),
        (b'{"status": "strat"}', "'strat'"),
        (b'{"exit_code": true}', "exit_code"),
        (b'{"success": "perhaps"}', "success must be"),
        (b'{"job": {"status": "failed"}}', "'status' looks like the outcome"),
        (b'{"job": {"status": "strat"}}', "'status' looks like the outcome"),
        (b'{"jobs": [{"a": {"exitCode": 3}}]}', "'exitCode' looks like"),
        (b'{"phase": "Failed"}', "'phase' looks like"),
        (b'{"result": {"status": "failed"}}', "'status' looks like"),
        (b'{"Result": {"success": false, "error": "disk full"}}', "looks like"),
        (b'{"jsonrpc": "2.0", "result": {"exit_code": 2}}', "'exit_code' looks like"),
        (b'{"result": ["failed"]}', "looks like"),
        (b'{"result": [{"rows": 3}, {"ok": false}]}', "'ok' looks like"),
        (b'{"task": {"name": "x", "state": "failed"}}', "'state' looks like"),
        (b'{"run": {"id": 17, "conclusion": "failure"}}', "'conclusion' looks like"),
        (b'{"message": {"status": "failed"}}', "'status' looks like"),
        (b'{"message": ["failed"]}', "looks like"),
        (b'{"stage": [{"exitCode": 3}]}', "'exitCode' looks like"),
        (b'{"total": {"failed": 3}}', "'failed' looks like"),
        (b'{"done": [{"error": "x"}]}', "'error' looks like"),
        (b'{"duration": {"status": "timeout"}}', "'status' looks like"),
        (b'{"job": {"ok": false}}', "'ok' looks like"),
        (b'{"status": "fail", "status": "ok"}', "stands twice"),
        (b'{"rows": [' + b"1," * 6_000 + b"1]}", "more than 5000 values"),
    ],
)
def test_json_whose_outcome_is_in_doubt_is_refused_with_a_sentence(body: bytes, says: str) -> None:
    assert says in refusal("", body, JSON)


def test_a_form_with_a_list_that_is_too_long_is_refused() -> None:
    assert "more than 5000 values" in refusal("", b"rows=[" + b"1," * 6_000 + b"1]", FORM)


@pytest.mark.parametrize(
    ("body", "left_out"),
    [
        (b'{"done": 1.5, "status": "fail"}', ["done"]),
        (b'{"done": true, "status": "fail"}', ["done"]),
        (b'{"duration": [1], "status": "fail"}', ["duration"]),
        (b'{"duration": NaN, "status": "fail"}', ["duration"]),
        (b'{"status": "fail", "message": ' + b"[" * 500 + b"]" * 500 + b"}", ["message"]),
        (b'{"status": "fail", "run": ' + b"[" * 900 + b"]" * 900 + b"}", ["run"]),
        (b'{"status": "fail", "run": {}}', ["run"]),
    ],
)
def test_a_detail_of_json_that_cannot_be_read_costs_nothing_else(body: bytes, left_out: list[str]) -> None:
    assert ping("", body, JSON).signal == "fail" and ignored("", body, JSON) == left_out


def test_json_as_shells_write_it() -> None:
    assert (
        ping("", '{"status":"fail","message":"line 1\nline 2"}'.replace("\\n", "\n"), FORM).message == "line 1\nline 2"
    )


@pytest.mark.parametrize(
    "body",
    [
        "'{status:fail}'",
        "{'status': 'failed'}",
        '{"status":"fail","message":"disk "full""}',
        "<job><status>failed</status></job>",
        "status: failed",
        "STATUS: FAILED\nhost: db1",
        "status=fail\nmessage=disk full",
        '[{"status": "failed"}]',
        '{"status":"fail","message":"disk "full"", "x": [1',
        "[{'status': 'failed'}]",
        "error: disk full",
        "exit code: 3\nhost: db1",
        "status: timed out",
        "result: not ok",
        "ok=2 changed=0 unreachable=0 failed=1",
        "status=start run=7",
        "run=7\nstatus=fail",
        "status=fail\nrun=7",
        "failed",
        '"Error"\n',
        "false",
        "failed.",
        "exit code 3",
        "Exited with status 127",
        "status%3Dfail",
        "%7B%22status%22%3A%22fail%22%7D",
        'payload={"status":"fail"}',
        "payload=%7B%22status%22%3A%22fail%22%7D",
        "---\nstatus: fail\n",
    ],
)
def test_what_looks_like_parameters_and_says_a_failure_is_no_success(body: str) -> None:
    assert refusal("", body, FORM) and refusal("", body)
    assert ping("/0", body, FORM).signal == "success"


@pytest.mark.parametrize(
    "output",
    [
        "[2026-11-30 02:00:01] checked 3 disks, errors: 0, state: clean",
        "[INFO] GET /x status: 200\n[INFO] done",
        "[x] retry after error: timeout\n[x] all 12 files copied",
        "<6>backup: last result: failed, now well",
        "Result: 42 files copied",
        "status: synced",
        "State : clean\nActive Devices : 2",
        "Passed: 120\nFailed: 0\nErrors: none",
        "HTTP status code: 200",
        "ok=2 changed=0 unreachable=0 failed=0",
        "localhost : ok=2 changed=0 unreachable=0 failed=0",
        "PLAY RECAP ***\nlocalhost : ok=2 changed=0 unreachable=0 failed=0",
        "result=42 files=3",
        "status=200 bytes=512 errors=0",
        "exit_code=0 took=3s",
    ],
)
def test_the_output_of_a_job_that_went_well_is_its_message(output: str) -> None:
    for kind in ("", FORM, "text/plain"):
        assert ping("", output, kind) == Ping("success", message=output), kind


def test_a_message_alone_may_hold_what_looks_like_pairs() -> None:
    assert ping("", "message=ok=2 failed=0", FORM) == Ping(message="ok=2 failed=0")


def test_json_that_is_nested_too_deeply_is_not_read() -> None:
    body = b'{"status":"ok","status":"ok","x":' + b"[" * 1_000 + b"]" * 1_000 + b"}"
    assert "nested too deeply" in refusal("", body, JSON)
    for kind in ("", FORM, "text/plain"):
        assert ping("", body, kind).signal == "success"
        assert ping("/fail", body, kind).signal == "fail"
    twice = b'{"status":"ok","status":"fail","x":' + b"[" * 1_000 + b"]" * 1_000 + b"}"
    for kind in ("", FORM, JSON):
        assert refusal("", twice, kind)


@pytest.mark.parametrize(
    "kind",
    [
        *("application/xml", "text/xml", "application/soap+xml", "application/yaml", "text/x-yaml"),
        *("application/x-ndjson", "application/msgpack", "multipart/form-data; boundary=x"),
    ],
)
def test_structured_data_that_is_not_read_is_refused(kind: str) -> None:
    refused = send("", "<status>ok</status>", kind, "POST")
    assert isinstance(refused, Rejection) and refused.status == 415
    assert ping("/1", "<status>ok</status>", kind) == Ping("fail", exit_code=1, message="<status>ok</status>")


def test_a_failure_outranks_the_other_outcomes() -> None:
    for rest in (
        *("?status=ok&status=fail", "?status=fail&status=ok", "?status=ok&success=false", "/success?status=fail"),
        *("?status=ok&failed=true", "?ok&error=disk+full", "/success?error=disk+full", "/0?failed=true"),
        *("/0?exit_code=3", "/fail?status=ok", "/3?status=ok", "/start?status=fail", "?rc=0&exit_code=3"),
    ):
        assert ping(rest).signal == "fail", rest
    assert ignored("/success?status=fail") == ["path"] and ignored("/fail?status=ok") == ["status"]
    assert ping("/log?status=error").signal == "log" and ping("/start?status=ok").signal == "start"
    assert ping("/3?exit_code=4").exit_code == 3 and ignored("/3?exit_code=4") == ["exit_code"]
    assert ping("/success?exit_code=3") == Ping("success", exit_code=3)
    assert ignored("/success?exit_code=3") == ignored("?status=ok&exit_code=3") == ["exit_code"]
    assert ping("?status=ok&error=disk+full").message == "disk full"
    assert ignored("?status=ok&error=disk+full") == ["status"] and ignored("/log?error=disk+full") == ["error"]


def test_a_body_that_could_not_be_read_is_refused_unless_the_address_says_everything() -> None:
    fault = Rejection(415, "the body is encoded as 'x'")
    for rest, expected in (("/fail", PLAIN["fail"]), ("/0", Ping(exit_code=0)), ("?status=fail", PLAIN["fail"])):
        path, _, query = f"/api/v1/heartbeat/{KEY}{rest}".partition("?")
        reading = native.read(Request("POST", path, query, {}, b"", 0, fault))
        assert isinstance(reading, ParsedPing) and reading.ping == expected and reading.notes[0].field == "body"
    assert native.read(Request("POST", f"/api/v1/heartbeat/{KEY}", "run=7", {}, b"", 0, fault)) is fault


def test_other_methods_are_refused() -> None:
    refused = send(method="DELETE")
    assert isinstance(refused, Rejection)
    answer = native.answer(refused, Request("DELETE", "/", "", {}, b""))
    assert answer.status == 405
    assert answer.headers == (("Allow", "GET, HEAD, POST"),)
    assert isinstance(send(method="HEAD"), ParsedPing)


def test_answers() -> None:
    request = Request("GET", f"/api/v1/heartbeat/{KEY}", "", {}, b"")
    ok = native.answer(Outcome("ok"), request)
    assert (ok.status, ok.body) == (200, b"OK")
    unknown = native.answer(Outcome("unknown"), request)
    assert (unknown.status, unknown.body) == (404, b"unknown key")
    away = native.answer(Outcome("unavailable", 3), request)
    assert (away.status, away.headers) == (503, (("Retry-After", "3"),))
    large = native.answer(Rejection(413, "the body is too large"), request)
    assert (large.status, large.body) == (413, b"the body is too large")


def test_a_percent_encoded_key_is_decoded() -> None:
    reading = native.read(Request("GET", "/api/v1/heartbeat/a%2Fb+c", "", {}, b""))
    assert isinstance(reading, ParsedPing)
    assert reading.address == KeyAddress("a/b+c")


def test_lines_of_a_bulk_request_are_read_alike() -> None:
    line: dict[str, Any] = {"key": KEY, "status": "start", "run": 7}
    assert read_fields(line.items()) == ReadParameters(Ping("start", run="7"), named=True)
    assert read_fields({"key": KEY, "status": None}.items()) == ReadParameters(PLAIN["success"])


WATCHDOG = {
    "version": "4",
    "groupKey": '{}:{alertname="Watchdog"}',
    "status": "firing",
    "receiver": "offbeat",
    "commonLabels": {"alertname": "Watchdog"},
    "alerts": [{"status": "firing"}],
}


def test_a_watchdog_that_fires_counts_and_one_that_is_resolved_does_not() -> None:
    firing = ParsedPing(
        KeyAddress(KEY), Ping("success", message="firing: Watchdog (1)", dialect="alertmanager"), named=False
    )
    assert send("", orjson.dumps(WATCHDOG), JSON, "POST") == firing
    resolved = orjson.dumps({**WATCHDOG, "status": "resolved"})
    for rest in ("", "/success", "/fail", "/0", "?status=ok"):
        reading = send(rest, resolved, JSON, "POST")
        assert reading == ParsedPing(
            KeyAddress(KEY), Ping("log", message="resolved: Watchdog (1)", dialect="alertmanager"), named=True
        )


def test_what_only_resembles_a_webhook_is_no_webhook() -> None:
    assert ping("", '{"groupKey": 1, "message": "x"}').message == "x"
    assert ping("", b'{"groupKey"').message == '{"groupKey"'
    for missing in ("alerts", "receiver", "status"):
        assert send("", orjson.dumps({k: v for k, v in WATCHDOG.items() if k != missing})) != send(
            "", orjson.dumps(WATCHDOG)
        )
    output = orjson.dumps({**WATCHDOG, "status": "resolved"})
    for kind in ("", FORM, "text/plain"):
        assert ping("/0", output, kind) == Ping(exit_code=0, message=output.decode())
