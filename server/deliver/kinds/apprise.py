"""A hundred more services by the apprise library, where the operator has installed it (`offbeat[apprise]`).

It does its own network traffic in threads. So it runs in few threads of its own, under a hard time-out, and the same
guard against private addresses is laid around every connection that those threads make (see outbound.py). Of an answer
it reads the first 64 KiB, as we do. An answer that drips keeps its thread; when all threads have such a one, apprise
stands still, and nothing else.

Source: github.com/caronc/apprise, Apprise.instantiate and NotifyBase.notify: False where it failed, without a reason.
"""

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import AfterValidator, Field

from server.deliver.channel import Channel, Message
from server.deliver.delivery import DeliveryError
from server.deliver.outbound import REPLY_BYTES_MAX, Outbound

_TYPES = {"🔴": "failure", "🟠": "warning", "🟢": "success", "🔵": "info"}
# These do not go out to a network, or run programs: not a channel's to choose.
_LOCAL = frozenset(("dbus", "qt", "glib", "kde", "gnome", "macosx", "windows", "syslog", "exec", "file", "blink1"))


def _check(value: str) -> str:
    scheme = value.partition("://")[0].lower()
    if "://" not in value or not scheme:
        raise ValueError("must be an address that apprise knows, such as pover://user@token")
    if scheme in _LOCAL:
        raise ValueError(f"{scheme}:// acts on the server's own machine and is not allowed")
    return value


def installed() -> bool:
    """Whether the optional library is there."""
    return find_spec("apprise") is not None


class Apprise(Channel):
    """Hands the text to every address."""

    kind: ClassVar[str] = "apprise"
    hidden: ClassVar[frozenset[str]] = frozenset(("urls",))
    per_minute_default: ClassVar[int] = 20

    urls: Annotated[
        tuple[Annotated[str, Field(max_length=2_000), AfterValidator(_check)], ...], Field(min_length=1, max_length=10)
    ]

    def compose(self, message: Message) -> bytes:
        words = message.words
        return orjson.dumps({"title": words.title, "body": words.text, "type": _TYPES[words.symbol]})

    async def send(self, message: Message, body: bytes, out: Outbound) -> None:
        if not installed():
            raise DeliveryError("apprise is not installed: pip install 'offbeat[apprise]'", permanent=True)
        if not await out.in_thread(_notify, self.urls, orjson.loads(body)):
            raise DeliveryError("apprise could not deliver to all of its addresses")


def _notify(urls: tuple[str, ...], content: dict[str, str]) -> bool:
    """To every address, one after the other. Each service is called itself: Apprise.notify would use more threads."""
    import apprise

    _bound_answers()
    arrived = True
    for url in urls:
        service = apprise.Apprise.instantiate(url, suppress_exceptions=True)
        if service is None:
            raise DeliveryError("apprise does not understand one of the addresses", permanent=True)
        arrived &= bool(
            service.notify(
                title=content["title"], body=content["body"], notify_type=apprise.NotifyType(content["type"])
            )
        )
    return arrived


@cache
def _bound_answers() -> None:
    """Requests reads an answer whole before anybody has asked for it, be it ten gigabytes or what unpacks to that."""
    import requests

    whole = requests.Response.iter_content

    def first(self: Any, chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[Any]:
        left = REPLY_BYTES_MAX
        for chunk in whole(self, chunk_size, decode_unicode):
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                self.raw.close()
                return

    requests.Response.iter_content = first  # type: ignore[method-assign]
