"""Sentry's check-ins: envelopes as SDKs send them, the cron address, definitions that travel along, and attachments."""

from typing import Any

import orjson
import pytest

from offbeat_server.engine.model.ping import Ping
from offbeat_server.engine.schedule.calendar import check_zone
from offbeat_server.ingest.http.content_codings import BadCoding
from offbeat_server.ingest.protocols.base import Outcome, ParsedPing, Rejection, Request, SlugAddress
from offbeat_server.ingest.protocols.sentry import check_ins
from offbeat_server.ingest.protocols.sentry.envelope import Envelope
from offbeat_server.ingest.protocols.sentry.monitor_config import DEFAULTS, read_config
from offbeat_server.ingest.protocols.sentry.windows_zones import WINDOWS_ZONES
from tests.support.engine import Scene

PING_KEY = "0123456789abcdef0123456789abcdef"
ID = "4b1e5a0c9d2f4a7b8c3d6e5f4a3b2c1d"
AUTH = {"x-sentry-auth": f"Sentry sentry_key={PING_KEY}, sentry_version=7, sentry_client=sentry.python/2.0"}
CONFIG = {"schedule": {"type": "crontab", "value": "0 2 * * *"}, "timezone": "Europe/Vienna", "checkin_margin": 5}
FIELDS = {"every": None, "oncalendar": None, "after": None, "members": None, "cron": "0 2 * * *"}


def check_in(**changed: object) -> dict[str, object]:
    return {
        "type": "check_in",
        "monitor_slug": "nightly",
        "check_in_id": ID,
        "status": "in_progress",
        "duration": None,
        "environment": "production",
        "release": None,
        "contexts": {"trace": {"trace_id": "0" * 32}},
    } | changed


def envelope(*items: object, header: object = None, kind: str = "check_in") -> bytes:
    lines = [orjson.dumps(header or {"event_id": ID, "sent_at": "2026-01-01T00:00:00Z"})]
    for item in items:
        payload = item if isinstance(item, bytes) else orjson.dumps(item)
        lines += [orjson.dumps({"type": kind, "length": len(payload)}), payload]
    return b"\n".join(lines) + b"\n"


def post(body: bytes, path: str = "/api/1/envelope/", query: str = "", **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return check_ins.read(Request("POST", path, query, {**AUTH, **named}, body))


def refusal(body: bytes, **headers: str) -> tuple[int, str]:
    refused = post(body, **headers)
    assert isinstance(refused, Rejection), refused
    return refused


def test_a_check_in() -> None:
    assert post(envelope(check_in())) == [
        ParsedPing(SlugAddress(PING_KEY, "nightly"), Ping("start", run=ID, dialect="sentry"), named=True)
    ]
    done = check_in(status="ok", duration=12.5, check_in_id="4b1e5a0c-9d2f-4a7b-8c3d-6e5f4a3b2c1d")
    assert post(envelope(done))[0].ping == Ping("success", run=ID, duration=12.5, dialect="sentry")
    assert post(envelope(check_in(status="error")))[0].ping.signal == "fail"
    assert post(envelope(check_in(status="missed")))[0].ping.signal == "log"
    assert post(envelope(check_in(check_in_id="0" * 32)))[0].ping.run is None
    assert post(envelope(check_in(duration=-1)))[0].ping.duration is None
    assert len(post(envelope(check_in(), check_in(status="ok")))) == 2


def test_everything_else_of_an_sdk_is_accepted_and_dropped() -> None:
    for kind in ("event", "transaction", "session", "sessions", "client_report", "log", "profile_chunk", "anything"):
        assert post(envelope({"x": 1}, b"\x00\xff\nbinary\n", kind=kind)) == []
    assert post(envelope()) == []
    assert len(post(b"{}\n\n\n" + b'{"type":"check_in"}\n' + orjson.dumps(check_in()) + b"\n" * 90)) == 1
    mixed = envelope(b"{}", kind="session") + b'{"type":"check_in"}\n' + orjson.dumps(check_in()) + b"\n"
    assert len(post(mixed)) == 1
    assert post(b'{"exception": {}}', "/api/1/store/") == []
    ok = check_ins.answer(Outcome("ok"), Request("POST", "/api/1/envelope/", "", {}, b""))
    assert (ok.status, ok.body) == (200, b"{}")


def test_environments_are_monitors_of_their_own() -> None:
    def address(**changed: object) -> object:
        return post(envelope(check_in(**changed)))[0].address

    assert address(environment=None) == address(environment="") == SlugAddress(PING_KEY, "nightly")
    assert address(monitor_slug="nightly_") == SlugAddress(PING_KEY, "nightly", sent="nightly_")
    assert address(environment="Staging") == SlugAddress(PING_KEY, "nightly.staging", like="nightly")
    assert address(monitor_slug="Nightly Backup") == SlugAddress(PING_KEY, "nightly-backup", sent="Nightly Backup")
    slug_address = address(environment="staging", monitor_config=CONFIG)
    assert isinstance(slug_address, SlugAddress)
    assert (slug_address.slug, slug_address.create, slug_address.like) == ("nightly.staging", True, None)


def test_a_config_makes_or_changes_the_monitor() -> None:
    address = post(envelope(check_in(monitor_config=CONFIG)))[0].address
    definition = {**FIELDS, "timezone": "Europe/Vienna", "grace": 300}
    assert address == SlugAddress(PING_KEY, "nightly", create=True, definition=definition, defaults=DEFAULTS)
    assert post(envelope(check_in(monitor_config={})))[0].address == SlugAddress(PING_KEY, "nightly")
    for wrong in ({"schedule": {"type": "crontab", "value": "@reboot"}}, {"schedule": 5}, [1], "x"):
        reading = post(envelope(check_in(monitor_config=wrong)))[0]
        problem = read_config(wrong).problem
        assert problem and reading.address == SlugAddress(PING_KEY, "nightly", problem=problem)


def test_a_further_in_progress_is_a_sign_of_life() -> None:
    scene = Scene()
    scene.monitor(max_runtime="60s")
    scene.ping(0, "start", run="a", dialect="sentry")
    scene.ping(40, "start", run="a", dialect="sentry")
    scene.ping(0 + 40, "start", run="b", dialect="sentry")
    scene.tick(95)
    assert not scene.incidents()
    state = scene.engine.monitors[1].runs
    assert state is not None
    assert [run.restarted_at for run in type(state).load(state.dump()).open.values()] == [scene.at(40), None]
    scene.tick(200)
    (incident,) = scene.incidents().values()
    assert scene.seconds(incident.opened_at) == 100


def test_what_a_config_becomes() -> None:
    def fields(schedule: object, **more: object) -> dict[str, object] | None:
        definition = read_config({"schedule": schedule, **more}).definition
        return None if definition is None else {k: v for k, v in definition.items() if v is not None}

    interval = {"type": "interval", "value": 3, "unit": "hour"}
    assert fields(interval) == {"every": 10_800, "timezone": "UTC"}
    assert fields({**interval, "unit": "month"}) == {"every": 3 * 31 * 86_400, "timezone": "UTC"}
    assert fields({"type": "crontab", "value": "@daily"}) == {"cron": "@daily", "timezone": "UTC"}
    assert fields(
        interval, checkin_margin=0, max_runtime=10, failure_issue_threshold=3, recovery_threshold=2, owner="team:x"
    ) == {"every": 10_800, "timezone": "UTC", "grace": 60, "max_runtime": 600, "fail_after": 3, "recover_after": 2}
    for wrong in (
        {**interval, "unit": "second"},
        {**interval, "unit": []},
        {**interval, "value": 0},
        {**interval, "value": True},
        {**interval, "value": 10**12},
        {"type": "crontab", "value": "0 0 * * * *"},
        {"type": "crontab"},
        {},
        None,
    ):
        assert fields(wrong) is None
    for name, value in (("timezone", "Mars/Base"), ("timezone", 5), ("checkin_margin", "x"), ("max_runtime", 0)):
        assert fields(interval, **{name: value}) is None


NIGHTLY = {"type": "crontab", "value": "0 5 * * *"}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"schedule": {**NIGHTLY, "value": "0 21 * * * Europe/Berlin"}}, "schedule.value: cron has five fields"),
        ({"schedule": {**NIGHTLY, "value": "0 0 21 * * *"}}, "schedule.value: cron has five fields"),
        ({"schedule": {**NIGHTLY, "value": "@reboot"}}, "schedule.value: "),
        ({"schedule": {**NIGHTLY, "value": 5}}, "schedule.value: must be a cron expression of five fields, not 5"),
        ({"schedule": {"type": "solar", "value": 5}}, "schedule.type: must be crontab or interval, not 'solar'"),
        ({"schedule": {"type": "interval", "value": 5}}, "schedule.unit: must be minute, hour"),
        ({"schedule": {"type": "interval", "unit": "day", "value": "x"}}, "schedule.value: must be a whole number"),
        ({"schedule": {"type": "interval", "unit": "day", "value": 1.5}}, "schedule.value: must be a whole number"),
        ({"schedule": None}, "schedule: must be an object with type and value, not nothing"),
        ({"schedule": NIGHTLY, "timezone": "Mars/Base"}, "timezone: no such time zone: 'Mars/Base'"),
        ({"schedule": NIGHTLY, "timezone": "Mars Standard Time"}, "timezone: no such time zone"),
        ({"schedule": NIGHTLY, "max_runtime": 0}, "max_runtime: must be a number of minutes of at least 1, not 0"),
        ({"schedule": NIGHTLY, "checkin_margin": "soon"}, "checkin_margin: must be a number of minutes"),
        ({"schedule": NIGHTLY, "failure_issue_threshold": 0}, "failure_issue_threshold: must be a whole number"),
        ({"schedule": NIGHTLY, "recovery_threshold": 10**6}, "recovery_threshold: "),
    ],
)
def test_a_config_that_cannot_be_used_names_the_field(config: dict[str, Any], field: str) -> None:
    read = read_config(config)
    assert read.definition is None and read.problem.startswith(f"monitor_config.{field}")


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        ({"schedule": {"type": "interval", "unit": "minute", "value": "10"}}, "every", 600),
        ({"schedule": {"type": "Interval", "unit": "Minutes", "value": 10.0}}, "every", 600),
        ({"schedule": NIGHTLY, "max_runtime": "30"}, "max_runtime", 1_800),
        ({"schedule": NIGHTLY, "checkin_margin": 0.5}, "grace", 60),
        ({"schedule": NIGHTLY, "failure_issue_threshold": 2.0}, "fail_after", 2),
        ({"schedule": NIGHTLY, "timezone": "W. Europe Standard Time"}, "timezone", "Europe/Berlin"),
        ({"schedule": NIGHTLY, "timezone": "Eastern Standard Time"}, "timezone", "America/New_York"),
        ({"schedule": {**NIGHTLY, "timezone": "Europe/Berlin"}}, "timezone", "Europe/Berlin"),
        ({"schedule": {**NIGHTLY, "timezone": "Europe/Berlin"}, "timezone": "UTC"}, "timezone", "UTC"),
    ],
)
def test_a_config_that_is_clear_is_taken(config: dict[str, Any], name: str, value: object) -> None:
    definition = read_config(config).definition
    assert definition is not None and definition[name] == value


def test_every_zone_of_windows_is_one_of_the_iana_list() -> None:
    assert len(WINDOWS_ZONES) > 130
    for name in WINDOWS_ZONES.values():
        assert check_zone(name) == name


def test_the_cron_address() -> None:
    def cron(url: str, body: bytes = b"", method: str = "GET", **headers: str) -> Any:
        path, _, query = url.partition("?")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return check_ins.read(Request(method, path, query, named, body))

    url = f"/api/1/cron/nightly/{PING_KEY}/"
    assert cron(f"{url}?status=in_progress&check_in_id={ID}&environment=dev&duration=1.5") == ParsedPing(
        SlugAddress(PING_KEY, "nightly.dev", like="nightly"),
        Ping("start", run=ID, duration=1.5, dialect="sentry"),
        named=True,
    )
    assert cron(f"{url.removesuffix('/')}?status=ok").ping == Ping("success", dialect="sentry")
    assert (
        cron("/api/1/cron/nightly/?status=error", authorization=f"Sentry sentry_key={PING_KEY}").ping.signal == "fail"
    )
    body = orjson.dumps({"status": "in_progress", "monitor_config": CONFIG, "monitor_slug": "other"})
    reading = cron(f"{url}?status=error", body, "POST", content_type="application/json")
    assert (reading.address.slug, reading.address.create, reading.ping.signal) == ("nightly", True, "start")
    assert cron(f"{url}?status=ok", b"", "POST", content_type="application/json") == cron(f"{url}?status=ok")
    assert cron(url) == (400, "missing field `status`")
    assert cron(f"{url}?status=ok&check_in_id=7").ping == Ping("success", run="7", dialect="sentry")
    assert cron(f"{url}?Status=error").ping.signal == "fail"
    assert cron(url, b"{", "POST", content_type="application/json") == (
        400,
        "check-in is not JSON: unexpected end of data: line 1 column 2 (char 1)",
    )
    assert cron(f"{url}?status=ok", method="HEAD") == cron(f"{url}?status=ok")
    refused = cron(f"{url}?status=ok", method="PUT")
    assert refused[0] == 405
    assert ("Allow", "GET, HEAD, POST") in check_ins.answer(refused, Request("PUT", url, "", {}, b"")).headers
    assert cron("/api/1/cron/nightly/?status=ok")[0] == 401
    done = check_ins.answer(Outcome("created"), Request("GET", url, "", {}, b""))
    assert (done.status, done.body) == (202, b"")


def test_one_key_and_only_one() -> None:
    body = envelope(check_in())

    def send(query: str = "", header: object = None, **headers: str) -> Any:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        content = envelope(check_in(), header=header) if header else body
        return check_ins.read(Request("POST", "/api/1/envelope/", query, sent, content))

    for reading in (
        send(f"sentry_version=7&sentry_key={PING_KEY}"),
        send(authorization=f"Sentry sentry_version=7,sentry_key={PING_KEY}"),
        send(authorization="Basic MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY6"),
        send(header={"dsn": f"http://{PING_KEY}@offbeat:8080/1"}),
        send(f"sentry_key={PING_KEY}", x_sentry_auth=AUTH["x-sentry-auth"]),
    ):
        assert reading[0].address.ping_key == PING_KEY
    assert send() == (401, "missing authorization information")
    assert send("sentry_key=other", x_sentry_auth=AUTH["x-sentry-auth"]) == (
        401,
        "multiple authorization payloads detected",
    )
    assert send(x_sentry_auth="Sentry sentry_version=7") == (401, "bad sentry authentication header")
    assert send(authorization="Basic ???")[0] == 401


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n",
        b"[]\n",
        b"{\n",
        b"\xff\n",
        b"{}\n{}\n",
        b'{}\n{"type":1}\n',
        b'{}\n{"type":"check_in","length":99}\n{}',
        b'{}\n{"type":"check_in","length":-1}\n{}',
        b'{}\n{"type":"check_in","length":1}\n{}\n',
        b'{}\n{"type":"check_in","length":true}\n{}\n',
        envelope(b"{"),
        envelope([1]),
        envelope(b"[" * 90_000),
        envelope(check_in(monitor_slug="")),
        envelope(check_in(monitor_slug=5)),
        envelope(check_in(monitor_slug="日本")),
        envelope(check_in(status=None)),
    ],
)
def test_a_malformed_envelope_is_refused(body: bytes) -> None:
    refused = post(body)
    assert isinstance(refused, Rejection)
    assert refused.status == 400
    answer = check_ins.answer(refused, Request("POST", "/api/1/envelope/", "", {}, b""))
    assert orjson.loads(answer.body) == {"detail": refused.reason}


def test_one_bad_check_in_does_not_cost_its_neighbours() -> None:
    assert len(post(envelope(check_in(status=5), check_in()))) == 1


def test_what_is_too_much_is_refused() -> None:
    assert refusal(envelope(*[check_in()] * 101))[0] == 413
    assert refusal(envelope(*[b"{}"] * 1_001, kind="event"))[0] == 413
    assert refusal(envelope(check_in(release="x" * 100_000)))[0] == 413
    large = check_in(release="x" * 60_000)
    assert len(post(envelope(*[large] * 6))) == 6
    readings = post(envelope(*[large] * 7))
    assert len(readings) == 6 and [note.field for note in readings[0].notes] == ["body"]
    assert refusal(b'{"x":"' + b"x" * 200_000 + b'"}\n')[0] == 400


def streamed(body: bytes, size: int = 1_000) -> Any:
    """As the server reads a long one: in pieces, of which only the check-ins are kept."""
    sink = check_ins.sink("/api/1/envelope/")
    assert sink is not None
    most = 0
    try:
        for at in range(0, len(body), size):
            sink.feed(body[at : at + size])
            most = max(most, sink.kept_bytes + len(sink._rest))
    except BadCoding:
        pass
    assert most < 1_000_000
    kept = sink.result()
    return check_ins.read(Request("POST", "/api/1/envelope/", "", AUTH, kept.body, 0, kept.fault))


@pytest.mark.parametrize("size", [1, 7, 65_536])
def test_an_envelope_in_pieces_says_the_same(size: int) -> None:
    for body in (
        envelope(check_in(), check_in(status="ok")),
        envelope(check_in())
        + b'\n\n{"type":"event","length":5}\n12345\n{"type":"check_in"}\n'
        + orjson.dumps(check_in()),
        envelope(check_in()).removesuffix(b"\n"),
        b'{}\n{"type":"attachment"}\nx\n{"type":"check_in"}\n' + orjson.dumps(check_in()),
        b"\n\n",
        b"",
        envelope(b"{"),
        b'{}\n{"type":"check_in","length":99}\n{}',
    ):
        assert streamed(body, size) == post(body), body


def test_a_large_attachment_costs_no_check_in() -> None:
    attachment = b'{"type":"attachment","length":30000000,"filename":"core"}\n' + bytes(30_000_000) + b"\n"
    before = envelope(check_in())
    for body in (before + attachment, b"{}\n" + attachment + before.partition(b"\n")[2]):
        assert [reading.ping.run for reading in streamed(body, 65_536)] == [ID]
    noted = streamed(before + attachment[:1_000], 65_536)
    assert [note.field for note in noted[0].notes] == ["body"]


def test_only_what_is_wanted_is_kept() -> None:
    sink = Envelope("check_in")
    sink.feed(b'{}\n{"type":"check_in","length":200000}\n' + b"x" * 200_000 + b'\n{"type":"check_in"}\n{}\n')
    assert sink.payloads == [b"{}"] and sink.skipped is not None and sink.kept_bytes < 200


def test_details_that_do_not_fit_cost_no_check_in() -> None:
    for changed, field in (({"check_in_id": "nightly-7"}, "run"), ({"duration": "soon"}, "duration")):
        (reading,) = post(envelope(check_in(status="error", **changed)))
        assert reading.ping.signal == "fail" and [note.field for note in reading.notes] == [field]
    assert post(envelope(check_in(check_in_id="nightly-7")))[0].ping.run == "nightly-7"
    for status, signal in (("ERROR", "fail"), ("Failed", "fail"), ("timeout", "fail"), ("succeeded", "success"),
                           ("in-progress", "start"), ("Running", "start"), ("missed", "log")):  # fmt: skip
        (reading,) = post(envelope(check_in(status=status)))
        assert reading.ping.signal == signal and bool(reading.notes) == (status == "missed"), status


@pytest.mark.parametrize(
    ("query", "body", "kind", "signal"),
    [
        ("", b'{"Status": "error"}', "application/json", "fail"),
        ("", b'{"STATUS": "ERROR"}', "application/json", "fail"),
        ("", b'\xef\xbb\xbf{"status": "error"}', "application/json", "fail"),
        ("", '{"status": "error"}'.encode("utf-16"), "application/json; charset=utf-16", "fail"),
        ("", b'{"status": "error", "release": "pr\xf6d"}', "application/json", "fail"),
        ("", b'{"status": "error", "duration": NaN}', "application/json", "fail"),
        ("", b'{"status": "error"}', "text/plain;charset=UTF-8", "fail"),
        ("", b'{"status": "error"}', "application/x-www-form-urlencoded", "fail"),
        ("", b"status=error", "application/x-www-form-urlencoded", "fail"),
        ("", b'{"status": "ok", "error": "disk full"}', "application/json", "fail"),
        ("?status=error&status=ok", b"", "", "fail"),
        ("?status=ok&success=false", b"", "", "fail"),
        ("?status=ok&rc=3", b"", "", "success"),
        ("?status=%22error%22&environment=%20", b"", "", "fail"),
    ],
)
def test_a_check_in_as_people_write_it(query: str, body: bytes, kind: str, signal: str) -> None:
    sent = Request("POST", f"/api/1/cron/nightly/{PING_KEY}/", query[1:], {"content-type": kind}, body)
    reading = check_ins.read(sent)
    assert isinstance(reading, ParsedPing) and reading.ping.signal == signal
    assert isinstance(reading.address, SlugAddress) and reading.address.slug == "nightly"


def test_a_check_in_that_is_no_item_is_not_dropped_unseen() -> None:
    sent = orjson.dumps(check_in(status="error"))
    for kind in (b"check-in", b"checkin", b"CHECK_IN"):
        (reading,) = post(b'{}\n{"type":"' + kind + b'"}\n' + sent + b"\n")
        assert reading.ping.signal == "fail", kind
    assert "is an item of an envelope" in post(sent).reason and post(b"{}\n") == []


def test_names_as_javascript_writes_them() -> None:
    config = {"schedule": {"type": "crontab", "value": "0 2 * * *"}, "checkinMargin": 5, "maxRuntime": 10}
    sent = {"checkInId": ID, "monitorSlug": "nightly", "status": "in_progress", "monitorConfig": config}
    at_cron = Request("POST", "/api/1/cron/job/pk/", "", {"content-type": "application/json"}, orjson.dumps(sent))
    assert isinstance(reading := check_ins.read(at_cron), ParsedPing) and reading.ping.run == ID
    (reading,) = post(envelope(sent))
    assert reading.ping.run == ID and reading.address.slug == "nightly"
    assert (reading.address.definition["grace"], reading.address.definition["max_runtime"]) == (300, 600)
