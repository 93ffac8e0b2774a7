"""Takes secrets out of what leaves the house: keys of the monitor itself, and what looks like a credential.

A job's last words often hold the command that failed, with its ping address or a token in it. The frozen facts keep
them for those who may see the monitor; messages to the outside do not.
"""

import re
from collections.abc import Iterable
from typing import Any

HIDDEN = "•••"

# What stands before a secret stays, so that the sentence can still be read. The addresses are the ping dialects'.
_SHAPES = (
    re.compile(r"(/(?:heartbeats?|ping|push|p|cron)/)[A-Za-z0-9_-]{8,}", re.IGNORECASE),
    re.compile(r"((?:Authorization|Proxy-Authorization)\s*:\s*(?:Bearer|Basic|Token|GenieKey)\s+)\S+", re.IGNORECASE),
    re.compile(r"(\b(?:X-Api-Key|Api-Key|X-Auth-Token)\s*:\s*)\S+", re.IGNORECASE),
    re.compile(r"(\bBearer\s+)[A-Za-z0-9._~+/-]{16,}=*"),
    re.compile(r"((?:password|passwd|secret|token|api[_-]?key)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;]{3,}", re.IGNORECASE),
    re.compile(r"([a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)", re.IGNORECASE),  # scheme://user:password@
    re.compile(r"()\bwhsec_[A-Za-z0-9+/=]{16,}"),
    re.compile(r"(hooks\.slack\.com/services/)\S+"),
)
# Escape sequences of terminals, and control characters other than the line's end and the tab.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without these secrets, without what looks like one, and without control characters."""
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    for shape in _SHAPES:
        text = shape.sub(rf"\g<1>{HIDDEN}", text)
    return text


def redact_all(value: Any, secrets: Iterable[str] = ()) -> Any:
    """The same for every string inside a JSON value, names of fields apart."""
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, dict):
        return {name: redact_all(each, secrets) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(each, secrets) for each in value]
    return value
