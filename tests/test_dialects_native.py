"""The native protocol: where a signal may stand, what a body is taken for, and what is refused with which sentence."""

from typing import Any

import orjson
import pytest

from server.engine.ping import PLAIN, Ping
from server.ingest import native
from server.ingest.fields import names_signal, read_fields
from server.ingest.reading import Key, Outcome, Reading, Refusal, Request

KEY = "8a1cc1de-1b0e-4f7c-9a3b-2d6c0a0b7c11"
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


def send(rest: str = "", body: bytes | str = b"", kind: str = "", method: str = "GET") -> Reading | Refusal:
    path, _, query = f"/api/v1/heartbeat/{KEY}{rest}".partition("?")
    raw = body.encode() if isinstance(body, str) else body
    return native.read(Request(method, path, query, {"content-type": kind} if kind else {}, raw))


def ping(rest: str = "", body: bytes | str = b"", kind: str = "") -> Ping:
    reading = send(rest, body, kind, "POST" if body else "GET")
    assert isinstance(reading, Reading), reading
    assert reading.address == Key(KEY)
    return reading.ping


def refusal(rest: str = "", body: bytes | str = b"", kind: str = "") -> str:
    refused = send(rest, body, kind, "POST" if body else "GET")
    assert isinstance(refused, Refusal), refused
    assert refused.status == 400
    return refused.reason


def test_the_signal_in_the_path() -> None:
    assert send() == Reading(Key(KEY), Ping("success"), named=False)
    assert send("/start") == Reading(Key(KEY), Ping("start"), named=True)
    assert send("/fail/") == send("/%66ail") == Reading(Key(KEY), Ping("fail"), named=True)
    assert ping("/in%20progress").signal == "start"
    assert send("/0") == Reading(Key(KEY), Ping("success", exit_code=0), named=True)
    assert send("/255") == Reading(Key(KEY), Ping("fail", exit_code=255), named=True)
    for signal in ("start", "success", "fail", "log", "progress", "skip", "leave"):
        assert ping(f"/{signal}") is PLAIN[signal]


@pytest.mark.parametrize("word", ["ok", "up", "complete", "Completed", "DONE", "finished", "success"])
def test_words_for_success(word: str) -> None:
    assert ping(f"?status={word}").signal == "success"


@pytest.mark.parametrize("word", ["error", "failed", "failure", "down", "Fail"])
def test_words_for_failure(word: str) -> None:
    assert ping(f"?status={word}").signal == "fail"


@pytest.mark.parametrize("word", ["started", "begin", "run", "running", "in_progress", "in-progress", "In%20Progress"])
def test_words_for_a_start(word: str) -> None:
    assert ping(f"?status={word}").signal == "start"


def test_parameters_in_the_query() -> None:
    said = ping("?status=progress&run=7&stage=load&task=part%201&done=3&total=10&duration=1h30m&message=half+way")
    assert said == Ping("progress", "7", "load", "part 1", 3, 10, None, 5400.0, "half way")
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
    said = Ping("progress", "7", "load", "p", 3, 10, None, 90.0)
    assert ping("", orjson.dumps(body), JSON) == said
    assert ping("", orjson.dumps(body), "application/json; charset=utf-8") == said
    assert ping("", orjson.dumps(body), FORM) == said  # what curl -d declares
    assert ping("", b" \n" + orjson.dumps(body)) == said
    assert ping("", '{"status": "fail", "message": {"rows": 3}, "host": "db1"}', JSON).message == '{"rows":3}'
    assert ping("", '{"run": null, "done": 5.0, "message": ""}', JSON) == Ping(done=5)
    assert ping("?run=a", '{"run": "b", "status": "start"}', JSON) == Ping("start", run="a")


def test_the_same_in_a_form() -> None:
    assert ping("", "status=fail&message=disk full", FORM) == Ping("fail", message="disk full")
    assert ping("/start", "run=7&task=a%20b", FORM) == Ping("start", run="7", task="a b")


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


@pytest.mark.parametrize("output", ['{"status": "healthy"}', '{"done": "soon"}', "status=green", "done=yes", "run=%ff"])
def test_output_that_looks_like_parameters_is_a_message_only_where_the_path_names_the_signal(output: str) -> None:
    assert ping("/0", output, FORM) == Ping("success", exit_code=0, message=output)
    assert refusal("", output, FORM)


def test_a_form_that_says_more_than_we_read_is_heard_where_the_path_says_nothing() -> None:
    said = "host=db1&status=fail&run=7"
    assert ping("", said, FORM) == Ping("fail", run="7", message=said)
    assert ping("", f"{said}&message=disk+full", FORM) == Ping("fail", run="7", message="disk full")
    assert ping("/0", said, FORM) == Ping("success", exit_code=0, message=said)
    for output in ("host=db1&status=green", "host=db1&run=7", "my host=db1&status=fail", "x=%ff&status=fail"):
        assert ping("", output, FORM) == Ping("success", message=output)


def test_json_in_latin_1() -> None:
    body = '{"status": "fail", "message": "Größe"}'.encode("latin-1")
    assert ping("", body, FORM) == Ping("fail", message="Größe")
    assert "not JSON" in refusal("", body, JSON)


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
        ("/256", "0 to 255"),
        ("/-1", "0 to 255"),
        ("/99999999999999999999999", "0 to 255"),
        ("/start/x", "use start"),
        ("?status=strat", "'strat'"),
        ("?status=", "unknown status"),
        ("?status=%ff", "UTF-8"),
        ("?exit_code=256", "exit_code must be a whole number from 0 to 255"),
        ("?exit_code=-9", "exit_code"),
        ("?done=-1", "done must be a whole number"),
        ("?done=9223372036854775808", "done"),
        ("?total=many", "'many'"),
        ("?duration=-1", "duration must be"),
        ("?duration=soon", "1h30m"),
        ("?duration=nan", "duration"),
        ("?run=" + "x" * 256, "longer than 255"),
        ("?stage=" + "x" * 101, "longer than 100"),
        ("?task=a%00b", "NUL"),
        ("/start?status=fail", "the path says start and the parameters say fail"),
        ("/3?exit_code=4", "exit code 3"),
    ],
)
def test_what_is_wrong_is_refused_with_a_sentence(rest: str, says: str) -> None:
    assert says in refusal(rest)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'"fail"', "must be a JSON object"),
        (b'{"status": true}', "unknown status True"),
        (b'{"status": ["fail"]}', "a list"),
        (b'{"run": {}}', "an object"),
        (b'{"run": false}', "text or a number"),
        (b'{"done": 1.5}', "1.5"),
        (b'{"done": true}', "whole number"),
        (b'{"duration": [1]}', "duration"),
        (b'{"exit_code": 99999999999999999999}', "exit_code"),
        (b'{"message": ' + b"[" * 500 + b"]" * 500 + b"}", "nested too deeply"),
        (b'{"run": ' + b"[" * 900 + b"]" * 900 + b"}", "a list"),
    ],
)
def test_wrong_json_is_refused_with_a_sentence(body: bytes, says: str) -> None:
    assert says in refusal("", body, JSON)


def test_a_multipart_form_is_refused_unless_the_path_names_the_signal() -> None:
    body = b'--x\r\ncontent-disposition: form-data; name="status"\r\n\r\nfail\r\n--x--\r\n'
    assert "multipart" in refusal("", body, "multipart/form-data; boundary=x")
    assert ping("/1", body, "multipart/form-data; boundary=x").signal == "fail"


def test_other_methods_are_refused() -> None:
    refused = send(method="DELETE")
    assert isinstance(refused, Refusal)
    said = native.answer(refused, Request("DELETE", "/", "", {}, b""))
    assert said.status == 405
    assert said.headers == (("Allow", "GET, HEAD, POST"),)
    assert isinstance(send(method="HEAD"), Reading)


def test_answers() -> None:
    request = Request("GET", f"/api/v1/heartbeat/{KEY}", "", {}, b"")
    ok = native.answer(Outcome("ok"), request)
    assert (ok.status, ok.body) == (200, b"OK")
    unknown = native.answer(Outcome("unknown"), request)
    assert (unknown.status, unknown.body) == (404, b"unknown key")
    away = native.answer(Outcome("unavailable", 3), request)
    assert (away.status, away.headers) == (503, (("Retry-After", "3"),))
    large = native.answer(Refusal(413, "the body is too large"), request)
    assert (large.status, large.body) == (413, b"the body is too large")


def test_a_percent_encoded_key_is_decoded() -> None:
    reading = native.read(Request("GET", "/api/v1/heartbeat/a%2Fb+c", "", {}, b""))
    assert isinstance(reading, Reading)
    assert reading.address == Key("a/b+c")


def test_lines_of_a_bulk_request_are_read_alike() -> None:
    line: dict[str, Any] = {"key": KEY, "status": "start", "run": 7}
    assert read_fields(line) == Ping("start", run="7")
    assert names_signal(line)
    assert read_fields({"key": KEY}) is PLAIN["success"]
    assert not names_signal({"key": KEY, "status": None})


WATCHDOG = {
    "version": "4",
    "groupKey": '{}:{alertname="Watchdog"}',
    "status": "firing",
    "receiver": "offbeat",
    "commonLabels": {"alertname": "Watchdog"},
    "alerts": [{"status": "firing"}],
}


def test_a_watchdog_that_fires_counts_and_one_that_is_resolved_does_not() -> None:
    firing = Reading(Key(KEY), Ping("success", message="firing: Watchdog (1)", dialect="alertmanager"), named=False)
    assert send("", orjson.dumps(WATCHDOG), JSON, "POST") == firing
    resolved = orjson.dumps({**WATCHDOG, "status": "resolved"})
    for rest in ("", "/success", "/fail", "/0", "?status=ok"):
        reading = send(rest, resolved, JSON, "POST")
        assert reading == Reading(
            Key(KEY), Ping("log", message="resolved: Watchdog (1)", dialect="alertmanager"), named=True
        )


def test_what_only_resembles_a_webhook_is_no_webhook() -> None:
    assert ping("/0", '{"groupKey": 1, "message": "x"}').message == "x"
    assert ping("/0", b'{"groupKey"').message == '{"groupKey"'
    for missing in ("alerts", "receiver", "status"):
        assert ping("/0", orjson.dumps({k: v for k, v in WATCHDOG.items() if k != missing})).dialect is None
