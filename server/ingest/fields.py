"""The parameters of a native ping, wherever they stand: a query, a form, a JSON object, one line of many.

One reader for all of them, so that `done=5`, `{"done": 5}` and `{"done": "5"}` mean the same everywhere.

| parameter | may be |
| --- | --- |
| `status` (or `signal`) | a signal, or one of the words below |
| `run` (or `rid`) | text or a number, at most 255 characters |
| `stage` | text, at most 100 characters |
| `task` | text or a number, at most 255 characters |
| `done`, `total` | whole numbers from 0; `done` may exceed `total`, since totals are estimates |
| `exit_code` | 0 to 255; without a status 0 is success and the rest is fail |
| `duration` | seconds, or `1h30m` |
| `message` | text; any other JSON value is kept as JSON |

An empty `run`, `stage`, `task` or `message` says nothing, and so does null: a shell variable that was never set must
not cost the ping. An empty `status` is refused, because it would count as success. Other names are ignored.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from server.engine.durations import read_duration
from server.engine.ping import (
    COUNT_MAX,
    EXIT_CODE_MAX,
    PLAIN,
    RUN_CHARS_MAX,
    SECOND,
    STAGE_CHARS_MAX,
    TASK_CHARS_MAX,
    Ping,
    Signal,
)
from server.ingest.message import stored_text
from server.ingest.reading import Refusal

# What people write for a signal. Only words that leave no doubt: a wrong guess would be a false alarm, or none.
_WORDS: Final[dict[Signal, str]] = {
    "start": "start started starting begin began run running in_progress",
    "success": "success succeeded successful ok up passed complete completed done finish finished end ended",
    "fail": "fail failed failure error errored down crash crashed",
    "log": "log info",
    "progress": "progress step",
    "skip": "skip skipped",
    "leave": "leave leaving",
}
SIGNAL_WORDS: Final = {word: signal for signal, words in _WORDS.items() for word in words.split()}
_ALLOWED = "use start, success, fail, log, progress, skip or leave"
_SAID_CHARS_MAX = 40  # of a wrong value, in the sentence that refuses it


def read_fields(
    fields: Mapping[str, Any], signal: Signal | None = None, exit_code: int | None = None, message: str | None = None
) -> Ping | Refusal:
    """The ping that these parameters describe.

    `signal` and `exit_code`: what the path already said. `message`: the stored form of a raw body, kept where the
    parameters bring no message of their own.

    Total: anything wrong is a Refusal with status 400 and a sentence that says what is allowed.
    """
    said: dict[str, Any] = {} if message is None else {"message": message}
    try:
        for name, value in fields.items():
            field = _FIELDS.get(name)
            if field is not None and value is not None:
                value = field[1](name, value)
                if value is not None:
                    said[field[0]] = value
    except ValueError as error:
        return Refusal(400, str(error))
    word: Signal | None = said.pop("signal", None)
    if word is not None and signal is not None and word != signal:
        return Refusal(400, f"the path says {signal} and the parameters say {word}: leave one out")
    if exit_code is not None and said.setdefault("exit_code", exit_code) != exit_code:
        return Refusal(400, f"the path says exit code {exit_code} and the parameters say {said['exit_code']}")
    signal = signal or word
    if signal is None:
        signal = "fail" if said.get("exit_code") else "success"
    return Ping(signal, **said) if said else PLAIN[signal]


def names_signal(fields: Mapping[str, Any]) -> bool:
    """Whether the parameters themselves say the signal, so that a key bound to another one does not change it."""
    said = fields.get
    return said("status") is not None or said("signal") is not None or said("exit_code") is not None


def read_word(word: str) -> Signal | None:
    """The signal that a word means, in any case, with `-` or a space for `_`; None for an unknown word."""
    return SIGNAL_WORDS.get(word) or SIGNAL_WORDS.get(word.strip().lower().replace("-", "_").replace(" ", "_"))


def unknown_signal(word: object) -> str:
    """The sentence that refuses a word."""
    return f"unknown status {_shown(word)}: {_ALLOWED}"


def _signal(name: str, value: object) -> Signal:
    signal = read_word(value) if isinstance(value, str) else None
    if signal is None:
        raise ValueError(unknown_signal(value))
    return signal


def _text(chars_max: int) -> Callable[[str, object], str | None]:
    def read(name: str, value: object) -> str | None:
        text = value if isinstance(value, str) else _number_as_text(name, value)
        if len(text) > chars_max:
            raise ValueError(f"{name} is longer than {chars_max} characters")
        if "\0" in text:
            raise ValueError(f"{name} must not contain NUL")
        return text or None

    return read


def _number_as_text(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be text or a number, not {_shown(value)}")
    return str(value)


def _whole(number_max: int) -> Callable[[str, object], int]:
    def read(name: str, value: object) -> int:
        number = -1
        if isinstance(value, str):
            text = value.strip()
            if text.isascii() and text.isdigit() and len(text) <= 19:
                number = int(text)
        elif isinstance(value, float):
            number = int(value) if value.is_integer() else -1
        elif isinstance(value, int) and not isinstance(value, bool):
            number = value
        if not 0 <= number <= number_max:
            raise ValueError(f"{name} must be a whole number from 0 to {number_max}, not {_shown(value)}")
        return number

    return read


def _seconds(name: str, value: object) -> float:
    if isinstance(value, str | int | float) and len(str(value)) <= _SAID_CHARS_MAX:
        try:
            return read_duration(value) / SECOND
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    raise ValueError(f"{name} must be a duration such as 90s, 1h30m or a number of seconds, not {_shown(value)}")


def _message(name: str, value: object) -> str | None:
    if isinstance(value, str):
        return stored_text(value)
    try:
        return stored_text(orjson.dumps(value).decode())
    except TypeError:  # orjson reads 1024 levels and writes 254
        raise ValueError(f"{name} is nested too deeply") from None


def _shown(value: object) -> str:
    if isinstance(value, dict | list):  # repr of a deep one would not return
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value[: _SAID_CHARS_MAX + 1] if isinstance(value, str) else value)
    return text if len(text) <= _SAID_CHARS_MAX else text[:_SAID_CHARS_MAX] + "…"


_run = _text(RUN_CHARS_MAX)
_FIELDS: Final[dict[str, tuple[str, Callable[[str, object], Any]]]] = {
    "status": ("signal", _signal),
    "signal": ("signal", _signal),
    "run": ("run", _run),
    "rid": ("run", _run),
    "stage": ("stage", _text(STAGE_CHARS_MAX)),
    "task": ("task", _text(TASK_CHARS_MAX)),
    "done": ("done", _whole(COUNT_MAX)),
    "total": ("total", _whole(COUNT_MAX)),
    "exit_code": ("exit_code", _whole(EXIT_CODE_MAX)),
    "duration": ("duration", _seconds),
    "message": ("message", _message),
}
FIELD_NAMES = frozenset(_FIELDS)
