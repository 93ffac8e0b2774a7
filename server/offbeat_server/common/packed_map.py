"""A dictionary from text to number that takes a quarter of the memory of Python's.

A million slugs are held by every process that takes pings, and few pings name one. They lie as bytes on a fixed number
of shelves, some ten on each: the text's hash says on which, and `bytes.find` finds it there, in 0.6 µs. A change
touches one shelf, so there is no pause in which a large table grows.
"""

from collections.abc import Callable

SHELVES = 1 << 17  # a power of two; an empty one is a pointer
_BEGIN, _END = (
    "\0\0",
    "\0",
)  # text\0number after \0\0: Postgres stores no text with a zero, so nothing else looks like it
_BEGIN_BYTES, _END_BYTES = _BEGIN.encode(), _END.encode()


class PackedStringMap:
    """Text to number. Texts are not empty and hold no zero byte; numbers are not negative."""

    __slots__ = ("_count", "_shelves")

    def __init__(self) -> None:
        self._count = 0
        self._shelves = [b""] * SHELVES

    def __len__(self) -> int:
        return self._count

    def get(self, text: str) -> int | None:
        """The number; None: the text is not known."""
        mark = f"{_BEGIN}{text}{_END}".encode("utf-8", "surrogatepass")
        shelf = self._shelves[hash(text) & (SHELVES - 1)]
        at = shelf.find(mark)
        if at < 0 or _END in text:
            return None
        begin = at + len(mark)
        end = shelf.find(_END_BYTES, begin)
        return int(shelf[begin:] if end < 0 else shelf[begin:end])

    def put(self, text: str, number: int) -> int:
        """It leads there from now on. Gives the shelf, for `drop`."""
        place = hash(text) & (SHELVES - 1)
        shelf = self._shelves[place]
        mark = f"{_BEGIN}{text}{_END}".encode()
        at = shelf.find(mark)
        if at < 0:
            self._count += 1
        else:
            end = shelf.find(_END_BYTES, at + len(mark))
            shelf = shelf[:at] + (b"" if end < 0 else shelf[end:])
        self._shelves[place] = b"%b%b%d" % (shelf, mark, number)
        return place

    def drop(self, place: int, is_gone: Callable[[int], bool]) -> None:
        """Take from a shelf what leads to such a number."""
        records = self._shelves[place].split(_BEGIN_BYTES)  # before the first there is nothing
        kept = [each for each in records if not each or not is_gone(int(each.rpartition(_END_BYTES)[2]))]
        self._count -= len(records) - len(kept)
        self._shelves[place] = _BEGIN_BYTES.join(kept)
