"""Reads a request's head for the fast HTTP server, and decides whether every HTTP parser would read it alike.

Clients send the same headers again and again: the part after the target of a head without a body is cached. If it
comes again, byte for byte, only the target is read (1.0 instead of 2.7 µs).

llhttp (httptools) parses the head and refuses violations of RFC 9112. The fast HTTP server does not answer heads that
llhttp passes and other parsers read differently, or that need more than a head and a body of known length: a header
that stands twice, no Host, a target that is no path, a chunked body, `Expect`, an upgrade, a version other than 1.0 and
1.1.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import httptools

from offbeat_server.ingest.http import response

HEAD_BYTES_MAX = 8190  # of a head at the fast HTTP server
LINE_BYTES_MAX = 65_536  # of a request line at aiohttp: Cronitor's and Uptime Kuma's clients put exceptions into it
HEADERS_MAX = 128
_is_target = re.compile(rb"/[!\"$-~]*").fullmatch  # llhttp and all other parsers read it alike
_unencoded_target = re.compile(rb"/[!-\"$->@-~\x80-\xff]*(?:\?[\t -\"$-~\x80-\xff]*)?").fullmatch
_unencoded = re.compile(rb"[\t \x80-\xff]").search
_encode = partial(re.compile(rb"[\t \x80-\xff]").sub, lambda found: b"%%%02X" % ord(found[0]))
has_bare_newline = re.compile(rb"(?<!\r)\n").search
ENDINGS_MAX = 1_000
ENDING_BYTES_MAX = 512


class Headers(Mapping[str, str]):
    """Headers decoded when they are asked for: most pings are read without one (2 of 7 µs with curl's own three)."""

    __slots__ = ("_raw",)

    def __init__(self, raw: dict[bytes, bytes]) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        # llhttp leaves white space at the end of a value.
        return self._raw[name.encode("latin-1")].strip(b" \t").decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._raw)

    def __len__(self) -> int:
        return len(self._raw)


class HeaderSet(NamedTuple):
    """The meaning of a head from its version on: the headers, and the Connection header of the answer."""

    headers: dict[bytes, bytes]
    keep: bytes


class HeaderCache:
    """Cache of the parts after the target, of heads without a body, by method. Bounded: a full one is emptied."""

    def __init__(self) -> None:
        self._known: dict[bytes, dict[bytes, HeaderSet]] = {b"GET": {}, b"HEAD": {}, b"POST": {}}

    def find(self, method: bytes, rest: bytes) -> HeaderSet | None:
        """Return the cached meaning; None: it must be parsed."""
        known = self._known.get(method)
        return None if known is None else known.get(rest)

    def add(self, method: bytes, rest: bytes, ending: HeaderSet) -> None:
        """Remember it, where it is short enough to come again."""
        known = self._known.get(method)
        if known is None or len(rest) > ENDING_BYTES_MAX:
            return
        if len(known) >= ENDINGS_MAX:
            known.clear()
        known[rest] = ending


class RequestHead:
    """The head of the request under way. One object and at most one parser for all requests of a connection."""

    __slots__ = (
        "_count",
        "_endings",
        "_keeps_alive",
        "_parser",
        "_rest",
        "body_left",
        "complete",
        "headers",
        "keep",
        "method",
        "url",
    )

    def __init__(self, endings: HeaderCache) -> None:
        self._endings = endings
        self._parser: httptools.HttpRequestParser | None = None
        self._rest = b""  # what follows the target in the head that was read last, if that had no body
        self.body_left = 0  # bytes of the body that have not come
        self.headers: dict[bytes, bytes] = {}  # names in lower case
        self.keep = b""  # the answer's Connection header
        self.method = self.url = b""
        self.complete = False  # there is no body, or it is complete

    def match_cached(self, raw: bytes) -> bytes | None:
        """The target, where all that stands around it is known and so need not be read again; None: `read` it.

        All but `url` is set. The target is not checked yet: `set_target` or `read` does that.
        """
        parts = raw.split(b" ", 2)
        if len(parts) < 3:
            return None
        method, target, rest = parts
        if method != self.method or rest != self._rest:
            known = self._endings.find(method, rest)
            if known is None:
                return None
            self.headers, self.keep = known
            self.method, self._rest, self.complete = method, rest, True
        return target

    def set_target(self, target: bytes) -> bool:
        """Whether this target, which `match_cached` returned, completes the head."""
        self.url = target
        return _is_target(target) is not None

    def read(self, raw: bytes) -> bool:
        """Whether the fast HTTP server answers this head. `raw` ends with its empty line. After False, read no more."""
        self._rest = b""
        headers: dict[bytes, bytes] = {}
        self.headers = headers
        self._count = 0
        self.url = b""
        self.complete = self._keeps_alive = False
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(raw)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return False
        if self._count != len(headers) or len(headers) > HEADERS_MAX or b"host" not in headers:
            return False
        if not self.url.startswith(b"/") or b"#" in self.url:
            return False
        if self._keeps_alive and b"connection" not in headers:
            self.keep = b""  # only HTTP/1.1 stays open unasked
        elif not self._read_connection(parser.get_http_version()):
            return False
        self.method = parser.get_method()
        if not self.complete:
            return self._expects_body(headers)
        _, target, rest = raw.split(b" ", 2)
        if target == self.url:
            self._rest = rest
            self._endings.add(self.method, rest, HeaderSet(headers, self.keep))
        return True

    def feed_body(self, piece: bytes) -> None:
        """A piece of the body, no longer than `body_left`."""
        assert self._parser is not None
        self._parser.feed_data(piece)
        self.body_left -= len(piece)

    def _read_connection(self, version: str) -> bool:
        """Return the Connection header of the answer, and whether the version is supported."""
        self.keep = b"" if self._keeps_alive else response.CLOSE
        if version == "1.0" and self._keeps_alive:
            self.keep = response.KEEP_ALIVE
        return version in ("1.0", "1.1")

    def _expects_body(self, headers: dict[bytes, bytes]) -> bool:
        length = headers.get(b"content-length", b"")
        if b"expect" in headers or b"transfer-encoding" in headers or not length.isdigit() or len(length) > 10:
            return False
        self.body_left = int(length)
        return True

    # Called by llhttp.

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value
        self._count += 1

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._keeps_alive = self._parser.should_keep_alive()  # llhttp forgets it when the message is complete

    def on_message_complete(self) -> None:
        self.complete = True


def encode_target(raw: bytes, is_ping: Callable[[str, str], bool]) -> bytes:
    """Return the head; if its target is a ping with bytes that should be encoded, these as `%20` or `%C3`.

    curl, small HTTP clients and scripts send a message as it is, and other readers of HTTP refuse such a request line.
    White space is encoded only in the query, so that no other path can be made of it. `is_ping` says whether a path
    and a query are a ping's.
    """
    line, end, rest = raw.partition(b"\r\n")
    start, _, version = line.rpartition(b" ")  # no search for where the target ends: that could cost its square
    method, _, target = start.partition(b" ")
    if (
        len(line) > LINE_BYTES_MAX
        or version not in (b"HTTP/1.1", b"HTTP/1.0")
        or method not in (b"GET", b"HEAD", b"POST")
        or _unencoded(target) is None
        or _unencoded_target(target) is None
    ):
        return raw
    path, _, query = target.decode("utf-8", "surrogateescape").partition("?")
    if not is_ping(path, query):
        return raw
    return b"%b %b %b%b%b" % (method, _encode(target), version, end, rest)
