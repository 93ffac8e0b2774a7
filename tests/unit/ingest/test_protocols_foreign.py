"""The protocols of other services: the meaning of each request, and the answer to its client."""

from typing import Any

import orjson
import pytest

from offbeat_server.engine.model.definition import Keywords
from offbeat_server.engine.model.ping import Ping
from offbeat_server.engine.model.slugs import slug_in, slug_of
from offbeat_server.ingest.key_index import PingRules
from offbeat_server.ingest.keyword_filters import filtered
from offbeat_server.ingest.protocols import cronitor, gatus, healthchecks, native, snitch, uptime_kuma
from offbeat_server.ingest.protocols.base import (
    Dialect,
    HttpAnswer,
    KeyAddress,
    Outcome,
    ParsedPing,
    Rejection,
    Request,
    SlugAddress,
    worst,
)
from offbeat_server.ingest.protocols.registry import DIALECTS, find
from offbeat_server.ingest.protocols.sentry import check_ins

UUID = "8a1cc1de-1b0e-4f7c-9a3b-2d6c0a0b7c11"
RID = "0f0e5b52-7d0c-4d1a-8e38-6f5b5d2f8a10"
PING_KEY = "0123456789abcdef0123456789abcdef"
BEARER = f"Bearer {PING_KEY}"


def request(url: str, method: str = "GET", body: bytes = b"", **headers: str) -> Request:
    path, _, query = url.partition("?")
    return Request(method, path, query, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def read(url: str, method: str = "GET", body: bytes = b"", **headers: str) -> ParsedPing | list[ParsedPing] | Rejection:
    sent = request(url, method, body, **headers)
    dialect = find(sent.path, sent.query, "snitch")
    assert dialect is not None
    return dialect.read(sent)


def one(url: str, method: str = "GET", body: bytes = b"", **headers: str) -> ParsedPing:
    reading = read(url, method, body, **headers)
    assert isinstance(reading, ParsedPing), reading
    return reading


def refused(url: str, method: str = "GET", body: bytes = b"", **headers: str) -> tuple[int, str]:
    refusal = read(url, method, body, **headers)
    assert isinstance(refusal, Rejection), refusal
    return refusal


def answer_of(dialect: Dialect, outcome: Outcome | Rejection, url: str = "/") -> HttpAnswer:
    return dialect.answer(outcome, request(url))


# ---------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize(
    ("url", "dialect"),
    [
        (f"/api/v1/heartbeat/{UUID}", native),
        (f"/ping/{UUID}", healthchecks),
        (f"/ping/{UUID}?state=run", healthchecks),
        (f"/ping/{PING_KEY}/nightly", healthchecks),
        (f"/ping/{PING_KEY}/nightly?state=run", cronitor),
        (f"/ping/{PING_KEY}/nightly?try=1&state=run", cronitor),
        (f"/ping/{PING_KEY}/nightly?metric=count:1&stamp=1766567.5", cronitor),
        (f"/ping/{PING_KEY}/nightly?estate=run", healthchecks),
        (f"/ping/{PING_KEY}/nightly/start?state=run", healthchecks),
        (f"/ping/{PING_KEY}/nightly/?state=run", cronitor),
        (f"/ping/{PING_KEY}/nightly/run", cronitor),
        (f"/ping/{PING_KEY}/nightly/complete?env=x", cronitor),
        (f"/ping/{PING_KEY}/nightly/fail?stamp=1", cronitor),
        (f"/ping/{PING_KEY}/nightly/fail", healthchecks),
        (f"/ping/{UUID}/run", healthchecks),
        (f"/ping/{UUID}/?state=run", healthchecks),
        (f"/p/{PING_KEY}/nightly", cronitor),
        ("/api/push/token", uptime_kuma),
        ("/api/v1/endpoints/core_db/external", gatus),
        ("/api/v1/endpoints/core_db/external/", gatus),
        ("/api/1/envelope/", check_ins),
        ("/api/42/store/", check_ins),
        (f"/api/1/cron/nightly/{PING_KEY}/", check_ins),
        ("/c2354d53d2", snitch),
        (f"/{UUID}", snitch),
        ("/", None),
        ("/livez", None),
        ("/metrics", None),
        ("/api/v1/heartbeats", None),
        ("/api/v1/monitors", None),
        ("/api/v1/endpoints/core_db", None),
        ("/api/x/envelope/", None),
    ],
)
def test_the_path_chooses_the_dialect(url: str, dialect: Dialect | None) -> None:
    path, _, query = url.partition("?")
    assert find(path, query, "snitch") is dialect
    if dialect is snitch:
        assert find(path, query) is None


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_dialect_says_when_to_come_again(dialect: Dialect) -> None:
    away = answer_of(dialect, Outcome("unavailable", 4))
    assert away.status == 503
    assert ("Retry-After", "4") in away.headers
    assert answer_of(dialect, Rejection(413, "the body is too large")).status == 413
    assert answer_of(dialect, Outcome("unknown")).status == 404
    assert answer_of(dialect, Outcome("ok")).status in (200, 202)


def test_of_several_outcomes_the_worst_counts() -> None:
    assert worst([]).kind == "ok"
    assert worst([Outcome("ok"), Outcome("unavailable", 2), Outcome("unknown")]) == Outcome("unavailable", 2)
    assert worst([Outcome("ok"), Outcome("created")]).kind == "created"


# ---------------------------------------------------------------------------------------------------- Healthchecks


def hc(signal: str = "success", **fields: object) -> Ping:
    return Ping(signal, dialect="healthchecks", **fields)  # type: ignore[arg-type]


def test_healthchecks_by_uuid() -> None:
    assert one(f"/ping/{UUID}") == ParsedPing(KeyAddress(UUID), hc(), named=False)
    assert one(f"/ping/{UUID}/") == one(f"/ping/{UUID}")
    assert one(f"/ping/{UUID}/start") == ParsedPing(KeyAddress(UUID), hc("start"), named=True)
    assert one(f"/ping/{UUID}/fail").ping == hc("fail")
    assert one(f"/ping/{UUID}/log", "POST", b"x").ping == hc("log", message="x")
    assert one(f"/ping/{UUID}/0").ping == hc("success", exit_code=0)
    assert one(f"/ping/{UUID}/007").ping == hc("fail", exit_code=7)
    assert one(f"/ping/{UUID}/255", "POST", b"why").ping == hc("fail", exit_code=255, message="why")
    for method in ("HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert one(f"/ping/{UUID}", method).ping == hc()
    assert one("/ping/c2354d53d2").address == KeyAddress("c2354d53d2")
    assert one(f"/ping/{UUID.upper()}/start") == ParsedPing(KeyAddress(UUID.upper()), hc("start"), named=True)
    assert one(f"/ping/{UUID.replace('-', '%2D')}/%73tart") == one(f"/ping/{UUID}/start")


def test_healthchecks_by_slug() -> None:
    assert one(f"/ping/{PING_KEY}/nightly") == ParsedPing(SlugAddress(PING_KEY, "nightly"), hc(), named=False)
    assert one(f"/ping/{PING_KEY}/nightly/start").ping == hc("start")
    assert one(f"/ping/{PING_KEY}/nightly/3?create=1") == ParsedPing(
        SlugAddress(PING_KEY, "nightly", create=True), hc("fail", exit_code=3), named=True
    )
    assert one(f"/ping/{PING_KEY}/nightly?create=true").address == SlugAddress(PING_KEY, "nightly")
    assert one(f"/ping/{PING_KEY}/start").address == SlugAddress(PING_KEY, "start")
    assert one(f"/ping/{PING_KEY}/_job-/start").address == SlugAddress(PING_KEY, "job", sent="_job-")
    assert one(f"/ping/{PING_KEY}/_job-?create=1").address == SlugAddress(PING_KEY, "job", create=True, sent="_job-")
    assert one(f"/ping/{UUID}/foo").address == SlugAddress(UUID, "foo")


def test_healthchecks_run_ids() -> None:
    assert one(f"/ping/{UUID}/start?rid={RID}").ping == hc("start", run=RID)
    assert one(f"/ping/{UUID}?rid={RID.upper()}&x=1", "POST", b"m").ping == hc(run=RID, message="m")
    assert one(f"/ping/{UUID}/fail?rid=").ping == hc("fail")
    for other in ("xyz", RID.replace("-", ""), RID + "0", "A%0D"):
        assert one(f"/ping/{UUID}/fail?rid={other}").ping == hc("fail", run=other.removesuffix("%0D"))


def test_healthchecks_refuses_as_the_original() -> None:
    assert refused(f"/ping/{PING_KEY}/Nightly") == (400, "invalid url format")
    assert refused(f"/ping/{PING_KEY}/-?create=1") == (400, "invalid url format")
    for path in ("", f"{PING_KEY}/", f"{PING_KEY}/nightly/", f"{PING_KEY}/nightly/foo", f"{UUID}/start/", "a/b/c/d"):
        assert refused(f"/ping/{path}") == (404, "not found")


@pytest.mark.parametrize("address", [UUID, f"{PING_KEY}/nightly"])
def test_healthchecks_suffixes_that_the_original_refuses(address: str) -> None:
    for code in (256, -1, -9, 3221225477, -1073741819):
        assert one(f"/ping/{address}/{code}").ping == hc("fail", exit_code=code)
    assert one(f"/ping/{address}/99999999999999999999999999").ping == hc("fail")
    assert one(f"/ping/{address}/KILL").ping == hc("fail", exit_code=137, message="killed by SIGKILL")
    assert one(f"/ping/{address}/oom-kill", "POST", b"why").ping == hc("fail", message="why")
    assert one(f"/ping/{address}/success").ping == hc()
    assert one(f"/ping/{address}/FAIL").ping == hc("fail")
    assert one(f"/ping/{address}/0%0D") == one(f"/ping/{address}/0")
    assert one(f"/ping/{address}%0D") == one(f"/ping/{address}")


def test_a_body_at_healthchecks_is_data() -> None:
    for body in (b'{"status":"fail","stage":"x"}', b"status=fail", b'{"stage":"production"}'):
        for suffix, signal in (("", "success"), ("/0", "success"), ("/start", "start"), ("/3", "fail")):
            ping = one(f"/ping/{UUID}{suffix}", "POST", body, content_type="application/json").ping
            assert (ping.signal, ping.stage, ping.run, ping.message) == (signal, None, None, body.decode())
    assert one(f"/ping/{UUID}/1", "POST", "Datenträger".encode("cp1252")).ping.message == "Datenträger"
    assert one(f"/ping/{UUID}/1", "POST", "Größe".encode("utf-16")).ping.message == "Größe"
    assert one(f"/ping/{UUID}/1", "POST", b"\xe4", content_type="text/plain; charset=iso-8859-1").ping.message == "ä"


@pytest.mark.parametrize(
    "address", [f"/ping/{UUID}", f"/ping/{PING_KEY}/nightly", f"/p/{PING_KEY}/nightly", "/api/push/t", "/c2354d53d2"]
)
def test_an_outcome_in_other_words_is_no_success(address: str) -> None:
    for query in (
        *("Status=failed", "state=Failed", "result=error", "exitCode=3", "success=false", "ok=0", "fail", "RC=-9"),
        *("error=disk+full", "create=1&status=fail"),
    ):
        assert one(f"{address}?{query}").ping.signal == "fail", query
    for query in ("status_of_job=x&result=perhaps", "success=perhaps", "phase=failed", "exit-code=x"):
        assert refused(f"{address}?{query}")[0] == 400, query
    for query in ("create=1/fail", "create=1/3", "x=1?status=fail", "rid=7/start"):
        assert "write the signal before the ?" in refused(f"{address}?{query}")[1], query
    for query in ("utm_source=x", "rows=5", "create=1"):
        assert one(f"{address}?{query}").ping.signal == "success", query


@pytest.mark.parametrize(
    ("url", "signal", "noted"),
    [
        (f"/ping/{UUID}/start?status=fail", "fail", ["path"]),
        (f"/ping/{UUID}/0?rc=3", "fail", ["path"]),
        (f"/ping/{UUID}/start?rc=3", "start", ["exit_code"]),
        (f"/ping/{UUID}/log?status=fail", "log", ["status"]),
        (f"/ping/{UUID}/fail?status=ok", "fail", ["status"]),
        (f"/ping/{UUID}/start?state=running", "start", []),
        (f"/ping/{PING_KEY}/nightly/0?fail", "fail", ["path"]),
        (f"/p/{PING_KEY}/nightly?state=fail&state=complete", "fail", ["status"]),
        (f"/p/{PING_KEY}/nightly?state=complete&status=failed", "fail", ["status"]),
        (f"/p/{PING_KEY}/nightly?state=complete&error=disk+full", "fail", ["status"]),
        (f"/p/{PING_KEY}/nightly?state=run&status=ok", "start", ["status"]),
        (f"/p/{PING_KEY}/nightly?state=complete&status_code=3", "success", ["exit_code"]),
        ("/api/push/t?status=down&status=up", "fail", ["status"]),
        ("/api/push/t?status=up&status=down", "fail", ["status"]),
        ("/api/push/t?status=up&success=false", "fail", ["status"]),
        ("/api/push/t?status=up&rc=3", "success", ["exit_code"]),
        ("/c2354d53d2?s=1&s=0", "fail", []),
        ("/c2354d53d2?s=error&s=0", "fail", []),
        ("/c2354d53d2?s=0&status=failed", "fail", []),
    ],
)
def test_two_outcomes_in_one_address(url: str, signal: str, noted: list[str]) -> None:
    reading = one(url)
    assert reading.ping.signal == signal and [note.field for note in reading.notes] == noted


def test_only_a_body_that_decides_the_signal_must_be_readable() -> None:
    fault = Rejection(415, "the body is encoded as 'x'")
    for url, refusing in (
        (f"/ping/{UUID}", True),
        (f"/ping/{UUID}/fail", False),
        ("/api/push/t?status=down", False),
        (f"/p/{PING_KEY}/nightly", False),
        ("/c2354d53d2", True),
        ("/c2354d53d2?s=1", False),
    ):
        sent = request(url, "POST")._replace(fault=fault)
        dialect = find(sent.path, sent.query, "snitch")
        assert dialect is not None
        assert (dialect.read(sent) is fault) is refusing, url


def test_healthchecks_answers() -> None:
    ok = answer_of(healthchecks, Outcome("ok"))
    assert (ok.status, ok.body) == (200, b"OK")
    assert ("Ping-Body-Limit", "10000") in ok.headers
    assert ("Access-Control-Allow-Origin", "*") in ok.headers
    created = answer_of(healthchecks, Outcome("created"))
    assert (created.status, created.body) == (201, b"Created")
    unknown = answer_of(healthchecks, Outcome("unknown"))
    assert (unknown.status, unknown.body, unknown.headers) == (404, b"not found", ())
    ambiguous = answer_of(healthchecks, Outcome("ambiguous"))
    assert (ambiguous.status, ambiguous.body) == (409, b"ambiguous slug")
    assert answer_of(healthchecks, Outcome("full", 30)).status == 429


def test_healthchecks_takes_a_watchdog() -> None:
    webhook = {"groupKey": "g", "status": "firing", "receiver": "r", "alerts": [{}], "commonLabels": {"alertname": "W"}}
    body = orjson.dumps(webhook)
    assert one(f"/ping/{UUID}", "POST", body).ping == Ping("success", message="firing: W (1)", dialect="alertmanager")
    body = orjson.dumps({**webhook, "status": "resolved", "commonLabels": None})
    resolved = Ping("log", message="resolved: alerts (1)", dialect="alertmanager")
    assert one(f"/ping/{UUID}", "POST", body).ping == resolved
    assert one(f"/ping/{UUID}/fail", "POST", body, content_type="application/json").ping == resolved
    assert one(f"/ping/{UUID}/fail", "POST", body).ping == hc("fail", message=body.decode())  # the output of a job


def test_a_monitor_may_take_only_post_and_decide_by_words() -> None:
    post = PingRules(post_only=True, keywords=None)
    assert filtered(hc(), "POST", post) == hc()
    assert filtered(hc("fail"), "GET", post).signal == "log"

    def signal_of(ping: Ping, **filters: Any) -> str:
        return filtered(ping, "GET", PingRules(post_only=False, keywords=Keywords(**filters))).signal

    filters = {"start": ("BEGIN",), "success": ("OK", "done"), "fail": ("ERROR",)}
    for message, signal in (("OK, but ERROR", "fail"), ("all done", "success"), ("BEGIN", "start"), ("error", "log")):
        assert signal_of(hc(message=message), **filters, default="ignore") == signal
    assert signal_of(hc(), default="fail") == "fail"
    assert signal_of(hc("start"), fail=("x",)) == "start"


# ---------------------------------------------------------------------------------------------------- Uptime Kuma


def test_uptime_kuma() -> None:
    def ping(signal: str = "success", **fields: object) -> Ping:
        return Ping(signal, dialect="uptime_kuma", **fields)  # type: ignore[arg-type]

    assert one("/api/push/tOk3n") == ParsedPing(KeyAddress("tOk3n"), ping(), named=False)
    assert one("/api/push/t?status=up&msg=OK&ping=") == ParsedPing(KeyAddress("t"), ping(message="OK"), named=True)
    assert one("/api/push/t?status=down&msg=disk%20full&ping=1500").ping == ping(
        "fail", message="disk full", duration=1.5
    )
    assert one("/api/push/t?status=").ping == ping()
    assert one("/api/push/t?status=UP").ping == ping("fail")
    assert one("/api/push/t?ping=12abc", "POST", b"ignored").ping == ping(duration=0.012)
    for nothing in ("", "0", "abc", "NaN", "-0"):
        assert one(f"/api/push/t?ping={nothing}").ping == ping()
    for wrong in ("-1", "1e12", "Infinity", "1e999"):
        reading = one(f"/api/push/t?status=down&ping={wrong}")
        assert reading.ping == ping("fail") and reading.notes[0].reason.startswith("Invalid ping value.")
    assert one("/api/push/t?Status=down").ping == ping("fail")
    assert refused("/api/push/")[0] == 404
    assert refused("/api/push/a/b")[0] == 404


def test_uptime_kuma_answers() -> None:
    assert answer_of(uptime_kuma, Outcome("ok")).body == b'{"ok":true}'
    unknown = answer_of(uptime_kuma, Outcome("unknown"))
    assert orjson.loads(unknown.body) == {"ok": False, "msg": "Monitor not found or not active."}
    assert unknown.content_type.startswith("application/json")


# ---------------------------------------------------------------------------------------------------- Gatus


def test_gatus() -> None:
    url = "/api/v1/endpoints/core_db/external"
    assert one(f"{url}?success=true&duration=10s", "POST", authorization=BEARER) == ParsedPing(
        SlugAddress(PING_KEY, "core_db"), Ping("success", duration=10.0, dialect="gatus"), named=True
    )
    assert one(f"{url}?success=false&error=no+route", "POST", authorization=BEARER).ping == Ping(
        "fail", message="no route", dialect="gatus"
    )
    assert one(f"{url}/?success=true", "POST", authorization=BEARER) == one(
        f"{url}?success=true", "POST", authorization=BEARER
    )
    assert one("/api/v1/endpoints/_db/external?success=true", "POST", authorization=BEARER).address == SlugAddress(
        PING_KEY, "db", sent="_db"
    )
    for text, seconds in (("1h2m3.5s", 3723.5), ("150ms", 0.15), ("1.5µs", 1.5e-6), (".5s", 0.5), ("0", 0.0)):
        assert one(f"{url}?success=true&duration={text}", "POST", authorization=BEARER).ping.duration == pytest.approx(
            seconds
        )
    assert refused(f"{url}?success=yes", "POST", authorization=BEARER) == (
        400,
        "missing or invalid success query parameter",
    )
    assert refused(f"{url}?success=true", "POST") == (401, "invalid Authorization header")
    assert refused(f"{url}?success=true", "POST", authorization="Bearer ") == (401, "bearer token must not be empty")
    for wrong in ("10", "-1s", "1d", "soon", "9999999h"):
        reading = one(f"{url}?success=false&duration={wrong}", "POST", authorization=BEARER)
        assert reading.ping == Ping("fail", dialect="gatus") and reading.notes[0].reason.startswith(
            "invalid duration: "
        )
    for query in ("success=false&success=true", "success=true&status=failed"):
        assert one(f"{url}?{query}", "POST", authorization=BEARER).ping.signal == "fail"
    assert one(f"{url}?success=true&error=x", "POST", authorization=BEARER).notes[0].field == "error"
    assert one(f"{url}?Success=False", "POST", authorization=BEARER).ping.signal == "fail"
    assert refused(f"{url}?success=true", authorization=BEARER)[0] == 405
    assert answer_of(gatus, Outcome("ok")).body == b""
    assert answer_of(gatus, Outcome("unknown")).body == b"not found"
    assert answer_of(gatus, Rejection(405, "Method Not Allowed")).headers == (("Allow", "POST"),)


# ---------------------------------------------------------------------------------------------------- Dead Man's Snitch


def test_snitch() -> None:
    def ping(signal: str = "success", **fields: object) -> Ping:
        return Ping(signal, dialect="snitch", **fields)  # type: ignore[arg-type]

    form = {"content_type": "application/x-www-form-urlencoded"}
    assert one("/c2354d53d2") == ParsedPing(KeyAddress("c2354d53d2"), ping(), named=False)
    assert one("/c2354d53d2?m=3+files&s=0").ping == ping(message="3 files", exit_code=0)
    assert one("/c2354d53d2?s=").ping == ping()
    assert one("/c2354d53d2?s=2").ping == ping("fail", exit_code=2)
    assert one("/c2354d53d2?s=256").ping == ping("fail", exit_code=256)
    assert one("/c2354d53d2?S=-9").ping == ping("fail", exit_code=-9)
    assert one("/c2354d53d2?s=error").ping == ping("fail")
    assert one("/c2354d53d2", "POST", b"m=just checking in&s=1", **form).ping == ping(
        "fail", message="just checking in", exit_code=1
    )
    assert refused("/c2354d53d2", "DELETE")[0] == 405
    done = answer_of(snitch, Outcome("ok"))
    assert (done.status, done.body) == (202, b"Got it, thanks!")


# ---------------------------------------------------------------------------------------------------- Cronitor


def test_cronitor() -> None:
    def ping(signal: str = "success", **fields: object) -> Ping:
        return Ping(signal, dialect="cronitor", **fields)  # type: ignore[arg-type]

    slug_address = SlugAddress(PING_KEY, "nightly", create=True)
    url = f"/p/{PING_KEY}/nightly"
    assert one(url) == ParsedPing(slug_address, ping(), named=False)
    assert one(f"{url}?state=run&stamp=1766567.5&series=1766567.123") == ParsedPing(
        slug_address, ping("start", run="1766567.123"), named=True
    )
    assert one(f"{url}?state=complete&metric=count:12&metric=error_count:1&metric=duration:2.5").ping == ping(
        done=12, duration=2.5
    )
    assert one(f"{url}?state=fail&status_code=2&message=no+space&duration=1.250").ping == ping(
        "fail", exit_code=2, message="no space", duration=1.25
    )
    assert one(f"{url}?state=fail&status_code=x&metric=count:a:3&metric=duration:x&msg=m").ping == ping(
        "fail", message="m"
    )
    assert [note.field for note in one(f"{url}?state=fail&status_code=x&metric=duration:x").notes] == [
        "duration",
        "exit_code",
    ]
    assert one(f"{url}?status_code=3").ping == ping("fail", exit_code=3)
    assert one(f"{url}?State=FAIL").ping == one(f"{url}?state=failed").ping == ping("fail")
    assert one(f"{url}?state=complete&status_code=3").ping == ping(exit_code=3)
    assert one(f"{url}?state=ok").ping == ping()
    assert one(f"{url}?state=tick").ping == ping()
    assert one(f"/ping/{PING_KEY}/nightly?state=run&try=2").address == slug_address
    # As the agent for Kubernetes does.
    query = "env=production&exit_code=2&host=n1&message=BackOff&series=f00d&stamp=1766567"
    assert one(f"/ping/{PING_KEY}/nightly/fail?{query}", "POST") == ParsedPing(
        slug_address, ping("fail", run="f00d", exit_code=2, message="BackOff"), named=True
    )
    assert one(f"/ping/{PING_KEY}/nightly/logs?{query}", "POST").ping.signal == "log"
    assert one(f"/p/{PING_KEY}/aB%20c?state=run").address == SlugAddress(PING_KEY, "ab-c", create=True, sent="aB c")
    assert one(f"/p/{PING_KEY}/aB?state=run&env=x").address == SlugAddress(PING_KEY, "ab.x", create=True, like="ab")
    assert one(f"{url}?env=Production").address == slug_address
    assert one(f"{url}?env=Staging").address == SlugAddress(PING_KEY, "nightly.staging", create=True, like="nightly")
    assert one(f"{url}/run").ping == one(f"{url}/run/").ping == ping("start")
    assert one(f"{url}/fail?message=m").ping == ping("fail", message="m")
    assert refused(f"{url}/run/x")[0] == 404
    assert refused(f"{url}?state=paused")[0] == 400
    assert len(one(f"{url}?series={'x' * 256}").ping.run or "") == 255
    assert refused(f"/p/{PING_KEY}/%E6%97%A5")[0] == 400
    assert refused(f"/p/{PING_KEY}")[0] == 404
    assert refused(url, "PUT")[0] == 405
    assert answer_of(cronitor, Outcome("created")).body == b"OK"


def test_slugs_from_names() -> None:
    assert slug_of("nightly.db_1-x") == "nightly.db_1-x"
    assert slug_of(" Nightly  Backup! ") == "nightly-backup"
    assert slug_of("日本") is None
    assert slug_of("x" * 101) is None
    assert slug_in("a", None) == slug_in("a", "") == slug_in("a", "PRODUCTION") == "a"
    assert slug_in("a", "EU west") == "a.eu-west"
    assert slug_in("a", "日本") is None
    assert slug_in("a" * 90, "b" * 10) is None
