"""Cuts a long body into JSON values while it arrives: NDJSON by its newlines, an array by its elements.

So memory does not grow with the body. The cut of an array needs no parser of our own: where a piece that begins at an
element and ends after a `}` reads as JSON, that end is the end of an element, because at the cut of a string or inside
another value it could not.
"""

from codecs import BOM_UTF8
from collections.abc import Iterator

from offbeat_server.ingest.protocols.parsing.objects import NotJson, read_line, read_list

VALUE_BYTES_MAX = 64_000  # of one line or element: a message may have a megabyte elsewhere, but not in bulk
_CANDIDATES_MAX = 20
_GAP_BYTES_MAX = 200  # of space between an element and its comma
BLANK_LINES_MAX = 10_000  # one after the other: to step over a gigabyte of them, sent as 1 MB of gzip, takes seconds
BLANK_BYTES_MAX = VALUE_BYTES_MAX  # before the first value
_SPACE = b" \t\r\n"


class BadBody(Exception):
    """The body cannot be read on from here; the text says why."""


class NdjsonReader:
    """Values out of pieces. `feed` and `end` give each value as read, or a BadBody for a line that is no JSON."""

    def __init__(self) -> None:
        self._rest = b""
        self._blank = 0  # bytes before the first value, then lines in a row
        self._array: bool | None = None
        self._ended = False

    def feed(self, piece: bytes) -> Iterator[object]:
        """The values that are whole now. Raises BadBody where no further value can be found."""
        data = self._rest + piece
        if self._array is None:
            if BOM_UTF8.startswith(data):  # the byte order mark of a file from Windows, or the beginning of one
                self._rest = data
                return iter(())
            data = data.removeprefix(BOM_UTF8).lstrip(_SPACE)
            if not data:
                self._rest = b""
                self._blank += len(piece)
                if self._blank > BLANK_BYTES_MAX:
                    raise BadBody(f"the first {BLANK_BYTES_MAX} bytes of the body are blank")
                return iter(())
            self._blank = 0
            self._array = data.startswith(b"[")
            if self._array:
                data = data[1:]
        return self._elements(data) if self._array else self._lines(data)

    def end(self) -> Iterator[object]:
        """The last values. Raises BadBody when the body breaks off."""
        if not self._array:
            yield from self._lines(self._rest + b"\n")
        elif not self._ended:
            raise BadBody("the array has no closing bracket ]: the body is incomplete")

    def _lines(self, data: bytes) -> Iterator[object]:
        lines = data.split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > VALUE_BYTES_MAX:
            raise BadBody(f"a line may have {VALUE_BYTES_MAX} bytes at most")
        for line in lines:
            if not line.strip(_SPACE):  # looked at first: thousands of blank lines would be as many exceptions
                self._blank += 1
                if self._blank > BLANK_LINES_MAX:
                    raise BadBody(f"more than {BLANK_LINES_MAX} blank lines follow each other")
                continue
            self._blank = 0
            try:
                yield read_line(line)
            except NotJson as error:
                yield BadBody(f"not JSON: {error}")

    def _elements(self, data: bytes) -> Iterator[object]:
        if self._ended:
            self._only_space(data)
            return
        stripped = data.rstrip(_SPACE)
        if stripped.endswith(b"]") and (values := _array(data[: len(stripped) - 1])) is not None:
            self._ended, self._rest = True, b""
            yield from values
            return
        cut = len(data)
        for _ in range(_CANDIDATES_MAX):
            cut = data.rfind(b"}", 0, cut)
            if cut < 0:
                break
            after = data[cut + 1 : cut + 1 + _GAP_BYTES_MAX].lstrip(_SPACE)
            if not after.startswith((b",", b"]")) or (values := _array(data[: cut + 1])) is None:
                continue
            self._rest = data[cut + 1 :].lstrip(_SPACE)[1:]
            yield from values
            if after.startswith(b"]"):
                self._ended = True
                self._only_space(self._rest)
            return
        if len(data) > 4 * VALUE_BYTES_MAX:
            raise BadBody(f"the array is not valid JSON, or an element has more than {VALUE_BYTES_MAX} bytes")
        self._rest = data

    def _only_space(self, data: bytes) -> None:
        if data.strip(_SPACE):
            raise BadBody("the body must end after the closing bracket ] of the array")
        self._rest = b""


def _array(elements: bytes) -> list[object] | None:
    """Return the JSON between two brackets; None if it is no JSON."""
    try:
        values = read_list(b"[%b]" % elements)
    except NotJson:
        return None
    return [BadBody(f"not JSON: {value}") if isinstance(value, NotJson) else value for value in values]
