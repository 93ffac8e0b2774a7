"""Reads a request's head for the fast door, and says whether every reader of HTTP would understand it alike.

llhttp (httptools) does the reading and refuses what breaks RFC 9112. What it lets pass and others read otherwise, or
what needs more than a head and a body of known length, is not for the fast door: a header that stands twice, no Host,
a target that is no path, a chunked body, `Expect`, an upgrade, another version than 1.0 and 1.1.
"""

from collections.abc import Iterator, Mapping

import httptools

from server.ingest import wire

HEAD_BYTES_MAX = 8190
HEADERS_MAX = 128


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


class Head:
    """The head of the request under way. One object and one parser for all requests of a connection."""

    __slots__ = ("_count", "_keeps_alive", "_parser", "body_left", "headers", "keep", "method", "url", "whole")

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self.body_left = 0  # bytes of the body that have not come
        self.headers: dict[bytes, bytes] = {}  # names in lower case
        self.keep = b""  # the answer's Connection header
        self.method = self.url = b""
        self.whole = False  # there is no body, or it is complete

    def read(self, raw: bytes) -> bool:
        """Whether this head is for the fast door. `raw` ends with its empty line. After a no, read nothing more."""
        headers: dict[bytes, bytes] = {}
        self.headers = headers
        self._count = 0
        self.url = b""
        self.whole = self._keeps_alive = False
        parser = self._parser
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
        elif not self._read_connection():
            return False
        self.method = parser.get_method()
        return self.whole or self._expects_body(headers)

    def feed_body(self, piece: bytes) -> None:
        """A piece of the body, no longer than `body_left`."""
        self._parser.feed_data(piece)
        self.body_left -= len(piece)

    def _read_connection(self) -> bool:
        """What to say about the connection; whether we speak that version at all."""
        version = self._parser.get_http_version()
        self.keep = b"" if self._keeps_alive else wire.CLOSE
        if version == "1.0" and self._keeps_alive:
            self.keep = wire.KEEP_ALIVE
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
        self._keeps_alive = self._parser.should_keep_alive()  # llhttp forgets it when the message is complete

    def on_message_complete(self) -> None:
        self.whole = True
