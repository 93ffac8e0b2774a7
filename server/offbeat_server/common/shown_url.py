"""URLs in messages: a setting that is a URL may hold a password or a token, and messages end up in logs."""

import re

_PARTS = re.compile(r"(?P<scheme>(?:.*?://)?)(?P<user>(?:.*@)?)(?P<host>[^/?#]*)/?(?P<rest>.*)", re.DOTALL)


def without_secrets(url: str) -> str:
    """The scheme and the host of a URL; `…` stands for user and password, and for all that follows the host.

    It takes any text, because a wrong setting may be no URL.
    """
    parts = _PARTS.fullmatch(url)
    assert parts is not None  # every part may be empty
    user, rest = ("…@" if parts["user"] else ""), ("/…" if parts["rest"] else "")
    return f"{parts['scheme']}{user}{parts['host']}{rest}"
