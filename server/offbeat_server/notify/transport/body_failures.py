"""Answers with a status of success whose body says that the message was refused.

Some services answer 200 to everything. Only shapes that mean failure in the documentation of a service are read, so
that the words of any other receiver are never taken for one:

| service | body |
| --- | --- |
| Microsoft Teams (connectors) | text with "Webhook message delivery failed with error: … HTTP error 413" |
| DingTalk, WeCom | `{"errcode": 310000, "errmsg": "…"}`: anything but 0 |
| Slack, Telegram | `{"ok": false, "error": "…"}` or `"description"` |
| Feishu, Lark | `{"code": 19001, "msg": "…"}` with a code from 9 000 up |
| Rocket.Chat and others | `{"success": false, "error": "…"}` or `"message"` |

Pure. Whether the message is tried again is decided by the status that the body names; without one it is.
"""

import re
from typing import Any, NamedTuple

import orjson

_TEAMS = re.compile(rb"Webhook message delivery failed with error", re.IGNORECASE)
_STATUS = re.compile(r"HTTP (?:error|status code)\W*(\d{3})", re.IGNORECASE)
_REASONS = ("error", "errors", "description", "errmsg", "msg", "message")
_LARK_CODE_MIN = 9_000  # its codes have four digits and more; others answer their 200 here


class BodyFailure(NamedTuple):
    """Read the reason in a body. `known`: it is a service's own text, which may be shown."""

    text: str
    status: int | None
    known: bool


def failure_in(body: bytes) -> BodyFailure | None:
    """Return the failure that a body of at most 64 KiB reports; None: no known one."""
    if _TEAMS.search(body):
        text = " ".join(body.decode(errors="replace").split())
        match = _STATUS.search(text)
        return BodyFailure(text, int(match[1]) if match else None, True)
    if body.lstrip()[:1] != b"{":
        return None
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    reason = _reason(document)
    code = document.get("errcode")
    if _is_number(code) and code != 0:
        return BodyFailure(f"errcode {code} {reason or ''}".strip(), None, True)
    if reason is None:
        return None
    if document.get("ok") is False or document.get("success") is False:
        status = document.get("error_code")
        return BodyFailure(reason, status if _is_number(status) else None, False)
    code = document.get("code")
    if _is_number(code) and code >= _LARK_CODE_MIN and isinstance(document.get("msg"), str):
        return BodyFailure(f"code {code} {reason}", None, True)
    return None


def _reason(document: dict[str, Any]) -> str | None:
    for name in _REASONS:
        value = document.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, dict | list) and value:
            return orjson.dumps(value).decode()
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
