"""Text from strangers in the form in which people may see it, in a terminal, an alert, a page or a log.

Every client with a ping key can send messages, run ids and names. Raw, they could colour an operator's terminal, set
its title or its clipboard, forge a line of the log, or reverse the direction of the text that follows. The database
keeps them as they were sent; every place that shows them uses these functions.
"""

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

P = ParamSpec("P")

# Anything that has to be changed. Most texts have none of it, and finding that out is cheap.
_SUSPECT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]")
# Sequences of ECMA-48, with the introducer in 7 or 8 bits. Repetitions are bounded, and a string ends before the next
# introducer, so the time is proportional to the length of the text.
_SEQUENCE = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"  # CSI: colours, cursor
    "|(?:\x1b[\\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]{0,4096}(?:\x07|\x1b\\\\|\x9c)"  # OSC, DCS, ...
    "|\x1b[ -/]{0,8}[0-~]"
)
_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\U000e0000-\U000e007f]")
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")
_BLANKS = re.compile("[\t\n]+")
# In JSON these stand only inside strings, where they may be written as escapes; everything below U+0020 already is.
_RAW_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]")


def readable(text: str) -> str:
    """Without escape sequences and control characters; characters that change the direction of text are spelled out.

    Lines stay lines: each kind of line end becomes a line feed.
    """
    if _SUSPECT.search(text) is None:
        return text
    text = _LINE_END.sub("\n", _SEQUENCE.sub("", text))
    return _DIRECTION.sub(_spelled, _CONTROL.sub("", text))


def one_line(text: str) -> str:
    """The same on one line, for names and reasons: a line end or a tab becomes a space."""
    return _BLANKS.sub(" ", readable(text))


def readable_json(text: str) -> str:
    """JSON with everything escaped that a terminal could take for a command. Its value is the same."""
    return _RAW_IN_JSON.sub(_escaped, text)


def says_one_line(sentence: Callable[P, str]) -> Callable[P, str]:
    """For a function that makes a sentence of names and messages."""

    @wraps(sentence)
    def in_one_line(*args: P.args, **kwargs: P.kwargs) -> str:
        return one_line(sentence(*args, **kwargs))

    return in_one_line


def _spelled(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _escaped(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
