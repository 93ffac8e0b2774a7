"""Removes secrets from alerts before they are sent: the keys of the monitor, and text that looks like a credential.

The last message of a job often has the command that failed, with a ping address or a token in it. The stored facts of
the alert keep these secrets for people who may see the monitor. The text that a channel receives does not.
"""

import re
from collections.abc import Iterable
from typing import Any

from offbeat.readable import readable

HIDDEN = "•••"
END_CHARS_MIN = 6  # shorter ends give nothing away

# The text before a secret stays, so that the sentence can still be read. A shape is tried only where one of its words
# occurs, which is far cheaper to find; and all repetitions are bounded, because any client can send the text.
_SHAPES: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...] = (
    (
        ("/heartbeat", "/ping/", "/push/", "/p/", "/cron/"),
        re.compile(r"(/(?:heartbeats?|ping|push|p|cron)/)[A-Za-z0-9_-]{8,200}", re.IGNORECASE),
    ),
    (
        ("authorization",),
        re.compile(r"(Authorization\s{0,5}:\s{0,5}(?:Bearer|Basic|Token|GenieKey)\s{1,5})\S{1,2000}", re.IGNORECASE),
    ),
    (
        ("api-key", "auth-token"),
        re.compile(r"((?:Api-Key|Auth-Token)\s{0,5}:\s{0,5})\S{1,2000}", re.IGNORECASE),
    ),
    (("bearer",), re.compile(r"(\bBearer\s{1,5})[A-Za-z0-9._~+/=-]{16,2000}", re.IGNORECASE)),
    (
        ("password", "passwd", "secret", "token", "apikey", "api_key", "api-key"),
        re.compile(
            r"((?:password|passwd|secret|token|api[_-]?key)[\"']?\s{0,5}[=:]\s{0,5}[\"']?)[^\s\"'&,;]{3,2000}",
            re.IGNORECASE,
        ),
    ),
    (("://",), re.compile(r"(://[^\s/:@]{0,200}:)[^\s/@]{1,500}(?=@)")),  # scheme://user:password@
    (("whsec_",), re.compile(r"()\bwhsec_[A-Za-z0-9+/=]{16,200}")),
    # Keys of well-known services, and of our own, by how they begin.
    (("oba_", "obr_", "obp_"), re.compile(r"()\bob[arp]_[A-Za-z0-9_-]{16,200}")),
    (("ghp_", "gho_", "ghs_", "ghu_", "github_pat_"), re.compile(r"()\b(?:gh[opsu]|github_pat)_[A-Za-z0-9_]{20,300}")),
    (("glpat-", "xox"), re.compile(r"()\b(?:glpat|xox[abeoprs])-[A-Za-z0-9-]{10,300}")),
    (("akia", "asia"), re.compile(r"()\bA[KS]IA[0-9A-Z]{16}\b")),
    (("eyj",), re.compile(r"()\beyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{8,4000}(?:\.[A-Za-z0-9_-]{0,2000})?")),
    (("private key-",), re.compile(r"(-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----)[^-]{1,10000}", re.IGNORECASE)),
    (("hooks.slack.com/",), re.compile(r"(hooks\.slack\.com/services/)\S{1,200}")),
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without these secrets, without what looks like one, and as people may see it."""
    text = readable(text)
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
            if "…" in text:
                text = _without_ends(text, secret)
    lower = text.lower()
    for markers, shape in _SHAPES:
        if any(marker in lower for marker in markers):
            text = shape.sub(rf"\g<1>{HIDDEN}", text)
    return text


def _without_ends(text: str, secret: str) -> str:
    """Remove the end of a secret that an earlier cut has left behind `…`."""
    for length in range(len(secret) - 1, END_CHARS_MIN - 1, -1):
        text = text.replace(f"…{secret[-length:]}", f"…{HIDDEN}")
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
