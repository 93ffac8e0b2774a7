"""URLs in messages: a setting that is a URL may hold a password or a token, and messages end up in logs."""

import re


def without_secrets(url: str) -> str:
    """The scheme and the host of a URL; `…` stands for user and password, and for all that follows the host.

    It takes any text, because a wrong setting may be no URL. An `@` after a `/`, `?` or `#` may end a password or
    belong to a token, so then the host is not shown either.
    """
    scheme, mark, rest = url.partition("://") if "://" in url else ("", "", url)
    authority, *behind = re.split(r"[/?#]", rest, maxsplit=1)
    if behind and "@" in behind[0]:
        return f"{scheme}{mark}…"
    user, _, host = authority.rpartition("@")
    return f"{scheme}{mark}{'…@' if user else ''}{host}{'/…' if behind and behind[0] else ''}"
