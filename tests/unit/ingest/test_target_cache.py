"""The short way to a ping means what the long one does: the index of common targets, and heads that come again."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from offbeat_server.ingest.http import target_cache
from offbeat_server.ingest.http.target_cache import METHODS, lookup_target
from offbeat_server.ingest.protocols import registry
from offbeat_server.ingest.protocols.base import OK, Outcome, ParsedPing, Request
from tests.unit.ingest.test_protocols_fuzz import PING_KEY, UUID

segments = st.one_of(
    st.sampled_from(
        [UUID, UUID.upper(), PING_KEY, "start", "fail", "0", "255", "256", "007", "ok", "Slug", "a.b", "-a"]
    ),
    st.sampled_from(["", "m1", "x" * 100, "x" * 101, "a%62", "a+b", "..", "run", "complete"]),
    st.text("aZ0_-.%/", max_size=4),
)
rests = st.one_of(
    st.sampled_from(["", "", "?", "/", "?status=up", "?status=up&msg=OK&ping=", "?create=1", "?status=nonsense"]),
    st.sampled_from(["?state=complete", "?state=run", "?state=x", "?stamp=1", "?rid=" + UUID, "#x", "?a b", "\n"]),
    st.text(max_size=3),
)
targets = st.tuples(
    st.sampled_from(["/api/v1/heartbeat/", "/ping/", "/api/push/", "/p/", "/"]),
    st.lists(segments, min_size=1, max_size=3).map("/".join),
    rests,
).map("".join)


@pytest.mark.slow
@settings(max_examples=1_500, deadline=None)
@given(targets, st.sampled_from(sorted(METHODS.values())))
@example(f"/ping/{UUID}/start", "GET")
@example(f"/ping/{UUID}/256", "GET")
@example(f"/ping/{UUID}/m1", "GET")
@example(f"/ping/{PING_KEY}/start", "GET")
@example(f"/ping/{PING_KEY}/m1/7", "POST")
@example(f"/ping/{PING_KEY}/m1?state=complete", "HEAD")
def test_the_short_way_reads_what_the_dialect_reads(target: str, method: str) -> None:
    target_found = lookup_target(target.encode("utf-8", "surrogateescape"))
    if target_found is None:
        return
    cached, key, slug = target_found
    path, _, query = target.partition("?")
    request = Request(method, path, query, {}, b"")
    dialect = registry.find(path, query)
    assert dialect is cached.dialect
    assert dialect.read(request) == cached.reading(key, slug)


def test_what_clients_send_most_takes_the_short_way() -> None:
    for target in (
        *(
            f"/api/v1/heartbeat/{key}{rest}"
            for key in (UUID, "my_key")
            for rest in ("", "/start", "/0", "?status=fail")
        ),
        *(f"/ping/{UUID}{rest}" for rest in ("", "/start", "/fail", "/1")),
        *(f"/ping/{PING_KEY}/nightly{rest}" for rest in ("", "/start", "?create=1", "?state=run")),
        *(f"/api/push/{PING_KEY}{rest}" for rest in ("", "?status=up&msg=OK&ping=")),
        *(f"/p/{PING_KEY}/nightly{rest}" for rest in ("", "?state=complete")),
    ):
        assert lookup_target(target.encode()) is not None, target


def test_an_answer_to_a_plain_ping_depends_on_nothing_in_it() -> None:
    """So it can be given without its request."""
    other = Request("POST", "/x", "a=b", {"accept": "text/html"}, b"body")
    for cached in {*target_cache._BY_KEY.values(), *target_cache._BY_SLUG.values()}:
        for outcome in (OK, *(Outcome(kind, 3) for kind in ("created", "unknown", "ambiguous", "full", "unavailable"))):
            assert cached.dialect.answer(outcome, other) == cached.dialect.answer(
                outcome, Request("GET", "", "", {}, b"")
            )
        assert isinstance(cached.reading("k", None), ParsedPing)
