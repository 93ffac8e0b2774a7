"""Names that clients give to runs, stages and tasks, in the one form in which they are stored and looked up.

An id decides to which run or task a ping belongs, so it is never left out: a value that is no text of the right length
becomes one, always the same one for the same id.
"""

import hashlib
import re

import orjson

from offbeat_server.engine.model.ping import (
    BUSINESS_DATE_CHARS_MAX,
    EXECUTION_CHARS_MAX,
    RUN_CHARS_MAX,
    STAGE_CHARS_MAX,
    TASK_CHARS_MAX,
)

COMMON_IDS = ("run", "stage", "task")
CHARS_MAX = {
    "run": RUN_CHARS_MAX,
    "stage": STAGE_CHARS_MAX,
    "task": TASK_CHARS_MAX,
    "for": BUSINESS_DATE_CHARS_MAX,
    "execution": EXECUTION_CHARS_MAX,
}
_DIGEST_CHARS = 16
_MARK = "~"
# The sign of an offset from UTC after a time of day, as in 2026-11-29T02:00:00+01:00 or 02:00:00.5 +0100.
_OFFSET = re.compile(r"(:\d\d(?:[.,]\d{1,9})?[ +]?)[ +](?=\d\d(?::?\d\d)?(?!\d))")


def canonical_run(run: str) -> str:
    """The form of a run id in which `+` and a space are the same, as they are in a query that was not encoded.

    Both become a space, but `+` where it is the sign of an offset from UTC, so that times stay times.
    """
    if "+" not in run and " " not in run:
        return run
    return _OFFSET.sub(r"\1+", run.replace("+", " "))


def read_id(name: str, value: object) -> tuple[str | None, str | None]:
    """The id that a value of a parameter in `CHARS_MAX` means, and what was changed, if anything; None: none was sent.

    Text and numbers are ids; of any other JSON value its text is. An id that is too long is cut, with a digest of the
    whole.
    """
    changed: str | None = None
    if isinstance(value, str):
        text = value.strip("\r\n") if value.strip() else ""
    elif isinstance(value, int | float) and not isinstance(value, bool):
        text = str(value)
    else:
        text = _as_text(value)
        changed = f"{name} must be text or a number: its JSON is taken as text"
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
        changed = f"{name} must not contain NUL: U+FFFD is stored for it"
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()  # half of a surrogate pair is no character
    if name in ("run", "for"):
        text = canonical_run(text)
    chars_max = CHARS_MAX[name]
    if len(text) > chars_max:
        text = shortened(text, chars_max)
        changed = f"{name} is longer than {chars_max} characters: its beginning is stored, with a digest of the whole"
    return text or None, changed


def shortened(text: str, chars_max: int) -> str:
    """Return the beginning of a long text, and a digest that differs for others with the same beginning."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]
    return text[: chars_max - _DIGEST_CHARS - len(_MARK)] + _MARK + digest


def _as_text(value: object) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # nested too deeply, or a number that JSON does not have
        return "…"
