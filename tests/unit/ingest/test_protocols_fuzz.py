"""Any bytes at any address: no reader raises, none answers 5xx itself, no result would be refused by Postgres, and only
monitors whose address was in the request are pinged.
"""

import gzip
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_from_bytes

import brotli
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from offbeat_server.ingest.protocols.base import Dialect, Outcome, Rejection, Request
from offbeat_server.ingest.protocols.parsing.parameters import read_fields
from offbeat_server.ingest.protocols.registry import DIALECTS, find
from tests.fuzz.judge import is_storable, judge_request, readings

UUID = "8a1cc1de-1b0e-4f7c-9a3b-2d6c0a0b7c11"
PING_KEY = "0123456789abcdef0123456789abcdef"
TWICE_AND_DEEP = b'{"status":"ok","status":"ok","x":' + b"[" * 1_000 + b"]" * 1_000 + b"}"
anything = st.text(alphabet=st.characters(codec=None), max_size=30)  # lone surrogates too: bytes that are not UTF-8
encoded = st.binary(max_size=20).map(quote_from_bytes)
known_words = st.sampled_from(
    [
        "",
        UUID,
        PING_KEY,
        "start",
        "fail",
        "log",
        "0",
        "255",
        "256",
        "007",
        "nightly",
        "Nightly",
        "x",
        "%ff",
        "%00",
        "ok",
    ]
)
segments = st.one_of(known_words, anything, encoded)
# Addresses of the protocols that have no `PREFIX`; test_registry.py finds a protocol that is missing.
OTHERS = ("/api/1/envelope/", "/api/1/store/", "/api/1/cron/", "/")
PREFIXES = (*(dialect.PREFIX for dialect in DIALECTS if hasattr(dialect, "PREFIX")), *OTHERS)
prefixes = st.sampled_from(PREFIXES)
paths = st.one_of(
    st.tuples(prefixes, st.lists(segments, max_size=4)).map(lambda both: both[0] + "/".join(both[1])),
    segments.map(lambda key: f"/api/v1/endpoints/{key}/external"),
    st.just("/c2354d53d2"),
)
NATIVE = ["status", "signal", "run", "rid", "stage", "task", "done", "total", "exit_code", "duration", "message"]
FOREIGN = ["create", "state", "series", "metric", "msg", "ping", "env", "success", "error", "m", "s", "status_code"]
CHECK_IN = ["monitor_slug", "check_in_id", "status", "environment", "duration", "monitor_config"]
names = st.sampled_from([*NATIVE, *FOREIGN, *CHECK_IN, "sentry_key"])
values = st.one_of(
    st.sampled_from(
        [
            "",
            "start",
            "ok",
            "up",
            "true",
            "false",
            "1",
            "-1",
            "256",
            "1e999",
            "nan",
            "Infinity",
            "count:3",
            "duration:1",
        ]
    ),
    st.sampled_from(["x" * 300, "%00", "%ff", "+", "=", UUID, PING_KEY, "9223372036854775808", "1h30m", "0" * 5_000]),
    anything,
    encoded,
)
queries = st.one_of(
    st.lists(st.tuples(st.one_of(names, anything), values), max_size=5).map(
        lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)
    ),
    anything,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
check_ins = st.dictionaries(
    names,
    st.one_of(json_values, st.sampled_from(["ok", "in_progress", "nightly", "production", "0" * 32, UUID])),
    max_size=6,
)
envelopes = st.tuples(
    st.dictionaries(st.sampled_from(["event_id", "dsn", "sent_at"]), json_values, max_size=2),
    st.lists(
        st.tuples(
            st.fixed_dictionaries(
                {"type": st.sampled_from(["check_in", "event", 5])},
                optional={"length": st.one_of(st.integers(-2, 400), json_values)},
            ),
            st.one_of(check_ins.map(orjson.dumps), st.binary(max_size=40)),
        ),
        max_size=3,
    ),
).map(lambda both: b"\n".join([orjson.dumps(both[0]), *(part for h, p in both[1] for part in (orjson.dumps(h), p))]))
forms = st.lists(st.tuples(names, values), max_size=4).map(
    lambda pairs: "&".join(f"{name}={value}" for name, value in pairs).encode("utf-8", "surrogatepass")
)
webhooks = st.fixed_dictionaries(
    {
        "groupKey": json_values,
        "status": st.sampled_from(["firing", "resolved", 5]),
        "alerts": st.just([]) | json_values,
    },
    optional={"receiver": json_values, "commonLabels": json_values},
).map(orjson.dumps)
plain_bodies = st.one_of(
    st.just(b""),
    st.binary(max_size=60),
    json_values.map(orjson.dumps),
    check_ins.map(orjson.dumps),
    envelopes,
    forms,
    webhooks,
    st.binary(min_size=1, max_size=9).map(lambda part: part * 4_000),
)
packing: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, brotli.compress, lambda body: gzip.compress(body)[:-5]]
bodies = st.tuples(plain_bodies, st.sampled_from(packing)).map(lambda both: both[1](both[0]))
headers = st.dictionaries(
    st.sampled_from(["content-type", "content-encoding", "authorization", "x-sentry-auth"]),
    st.one_of(
        st.sampled_from(
            ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"]
        ),
        st.sampled_from(["gzip", "br", "deflate", f"Bearer {PING_KEY}", f"Sentry sentry_key={PING_KEY}", "Basic eDp5"]),
        anything,
    ),
    max_size=4,
)
faults = st.sampled_from([None, None, None, Rejection(415, "the body is encoded as 'x'"), Rejection(408, "too slow")])
methods = st.sampled_from(["GET", "HEAD", "POST", "PUT", "X"])
requests = st.builds(Request, methods, paths, queries, headers, bodies, st.just(0), faults)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(requests)
@example(Request("POST", "/api/v1/heartbeat/k", "", {"content-type": "application/json"}, b'{"message":' + b"[" * 999))
@example(Request("POST", "/api/v1/heartbeat/k", "", {"content-type": "application/json"}, TWICE_AND_DEEP))
@example(Request("POST", "/api/v1/heartbeat/k", "", {}, TWICE_AND_DEEP))
@example(Request("POST", "/api/v1/heartbeat/k", "", {"content-type": "text/plain"}, TWICE_AND_DEEP))
@example(Request("POST", "/api/v1/heartbeat/k", "", {}, b'{"errors":' + b"[" * 1_000 + b"]" * 1_000 + b"}"))
@example(Request("POST", f"/ping/{UUID}/fail", "", {}, b"\0" * 10_000))
@example(Request("GET", "/ping/%88%AC/ac\x85", "", {}, b""))  # UTF-8 beside Windows-1252
@example(Request("GET", "/ping/%ff/aa.b\r_", "", {}, b""))
@example(Request("GET", "/api/v1/endpoints//external", "success=true", {"authorization": "Bearer x"}, b""))
def test_any_request_is_a_ping_for_its_address_or_refused(request: Request) -> None:
    dialect = find(request.path, request.query, "snitch")
    if dialect is None:
        return
    judge_request(dialect, request)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.one_of(names, st.text(max_size=5)), json_values, max_size=6))
def test_any_parameters_are_a_ping_or_refused(fields: dict[str, Any]) -> None:
    result = read_fields(fields.items())
    if isinstance(result, Rejection):
        assert result.status == 400
    else:
        is_storable(result.ping)


@settings(max_examples=200, deadline=None)
@given(requests, st.sampled_from(DIALECTS))
def test_a_dialect_is_total_on_paths_that_are_not_its_own(request: Request, dialect: Dialect) -> None:
    for reading in readings(dialect.read(request)):
        is_storable(reading.ping)


def test_an_unknown_key_gets_the_same_answer_also_if_it_resembles_a_key() -> None:
    for path in ("/api/v1/heartbeat/{}", "/ping/{}", "/ping/{}/nightly", "/p/{}/nightly", "/api/push/{}"):
        answers = set()
        for key in (UUID, UUID[:-1] + "2", "x", PING_KEY):
            request = Request("GET", path.format(key), "", {}, b"")
            dialect = find(request.path, request.query)
            assert dialect is not None
            answers.add(dialect.answer(Outcome("unknown"), request))
        assert len(answers) == 1
