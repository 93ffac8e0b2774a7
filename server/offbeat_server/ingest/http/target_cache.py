"""Reads the targets that most pings have: a key, or ping key and slug, and words that mean the same for all of them.

To make a request and have its protocol read it costs 1.3 to 2.2 µs, and the work around it as much again; here it is
0.3 to 0.9. The protocol's result is known beforehand, because it is computed once, when this module is loaded: so every
target has one meaning, and this is only its index.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from offbeat_server.engine.model.ping import Ping, lasting
from offbeat_server.ingest.protocols import cronitor, healthchecks, native, registry, uptime_kuma
from offbeat_server.ingest.protocols.base import Dialect, KeyAddress, ParsedPing, Request, SlugAddress
from offbeat_server.ingest.protocols.parsing.outcome import SIGNAL_WORDS

METHODS = {b"GET": "GET", b"HEAD": "HEAD", b"POST": "POST"}  # which every dialect here takes
_KEY = "00000000-0000-0000-0000-000000000000"
_SLUG = "slug"
# Only characters that stand for themselves, and slugs that every dialect takes as they are.
_split = re.compile(
    rb"(/api/v1/heartbeat/|/ping/|/api/push/|/p/)([0-9A-Za-z_-]+)"
    rb"(?:/([a-z0-9](?:[a-z0-9_.-]{0,98}[a-z0-9])?))?([/?][!\"$-~]*)?"
).fullmatch
_is_uuid = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch


class CachedTarget(NamedTuple):
    """The meaning of a target, beside its address.

    `create`: the address may make the monitor. `suffix`: that of `/ping/{key}/{suffix}`, which may be a slug.
    """

    dialect: Dialect
    ping: Ping
    named: bool
    create: bool
    suffix: str = ""

    def reading(self, key: str, slug: str | None) -> ParsedPing:
        """As its dialect reads it."""
        return ParsedPing(
            KeyAddress(key) if slug is None else SlugAddress(key, slug, self.create), self.ping, self.named
        )

    def request(self, key: str, method: str) -> Request | None:
        """The request again, if its `suffix` may be a slug."""
        return Request(method, f"{healthchecks.PREFIX}{key}/{self.suffix}", "", {}, b"") if self.suffix else None


def lookup_target(target: bytes) -> tuple[CachedTarget, str, str | None] | None:
    """Return a target's meaning, its key (or ping key) and its slug, if there is one; None: the protocol must read it.

    For a request with no body and one of METHODS. If it is not None, every HTTP parser reads the target alike, because
    it holds only letters, digits and characters that need no encoding.
    """
    path, _, last = target.rpartition(b"/")
    cached = _BARE.get(path)
    if cached is not None and last.replace(b"-", b"").isalnum():  # most pings: half the time of the general form
        return cached, last.decode(), None
    match = _split(target)
    if match is None:
        return None
    prefix, first, second, tail = match.groups()
    cached = _BY_KEY.get((prefix, second, tail))
    # Healthchecks has `/ping/{uuid}/start` and, for another first part, a slug of this name.
    keyed = second is None or prefix != b"/ping/" or _is_uuid(first) is not None
    if keyed and cached is not None:
        return cached, first.decode(), None
    if second is None or (keyed and prefix == b"/ping/") or (cached := _BY_SLUG.get((prefix, tail))) is None:
        return None
    return cached, first.decode(), second.decode()


def _ask(prefix: str, rest: str, suffix: str = "") -> CachedTarget:
    """Return what the protocol of this prefix reads in a target; `suffix` is in `rest`."""
    path, _, query = f"{prefix}{_KEY}{rest}".partition("?")
    dialect = registry.find(path, query)
    assert dialect is not None
    reading = dialect.read(Request("GET", path, query, {}, b""))
    assert isinstance(reading, ParsedPing), rest
    create = isinstance(reading.address, SlugAddress) and reading.address.create
    assert reading.address in (KeyAddress(_KEY), SlugAddress(_KEY, _SLUG, create)), rest
    return CachedTarget(
        dialect, lasting(reading.ping), reading.named, create, suffix if dialect is healthchecks else ""
    )


def _bytes(text: str) -> bytes | None:
    return text.encode() or None


_CODES = [str(code) for code in native.COMMON_EXITS]
_SUFFIXES = ["start", "fail", "log", *_CODES]
_STATES = [f"?state={state}" for state in ("run", "complete", "fail", "ok", "tick")]


def _by_key() -> Iterable[tuple[str, str, str]]:
    """Prefix, suffix and the rest."""
    for prefix in (native.PREFIX, healthchecks.PREFIX, uptime_kuma.PREFIX):
        yield prefix, "", ""
    yield from ((native.PREFIX, suffix, "") for suffix in (*SIGNAL_WORDS, *_CODES))
    yield from ((native.PREFIX, "", f"?status={suffix}") for suffix in SIGNAL_WORDS)
    yield from ((healthchecks.PREFIX, suffix, "") for suffix in _SUFFIXES)
    yield uptime_kuma.PREFIX, "", "?status=up"
    yield uptime_kuma.PREFIX, "", "?status=up&msg=OK&ping="


def _by_slug() -> Iterable[tuple[str, str]]:
    """Prefix and the rest."""
    yield from (
        (healthchecks.PREFIX, rest) for rest in ("", "?create=1", *(f"/{suffix}" for suffix in _SUFFIXES), *_STATES)
    )
    yield from ((cronitor.PREFIX, rest) for rest in ("", *_STATES))


_BY_KEY = {
    (prefix.encode(), _bytes(suffix), _bytes(rest)): _ask(prefix, (f"/{suffix}" if suffix else "") + rest, suffix)
    for prefix, suffix, rest in _by_key()
}
_BARE = {prefix[:-1]: cached for (prefix, suffix, rest), cached in _BY_KEY.items() if suffix is rest is None}
_BY_SLUG = {(prefix.encode(), _bytes(rest)): _ask(prefix, f"/{_SLUG}{rest}") for prefix, rest in _by_slug()}
DIALECTS = {cached.dialect for cached in (*_BY_KEY.values(), *_BY_SLUG.values())}
