"""The way out: HTTP, mail and blocking libraries, all with the guard on final addresses, time-outs and limits.

A hostile or broken receiver may hang, drip, answer ten gigabytes or redirect elsewhere; here that costs one bounded
attempt. Connections are not kept: an alert is rare, and a connection that the other side has just closed would look
like a failure.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import orjson
from yarl import URL

from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.common.service import Service
from offbeat_server.config import Settings
from offbeat_server.notify.transport.body_failures import failure_in
from offbeat_server.notify.transport.delivery import DeliveryError, DeliveryReply, MailServer
from offbeat_server.notify.transport.destination_guard import BlockedDestinationError, Guard, Resolver
from offbeat_server.notify.transport.smtp import read_ehlo, read_mail_server, send_mail
from offbeat_server.notify.transport.thread_pool import GuardedThreads

SEND_TIMEOUT_S = 15.0  # everything: lookup, connection, TLS, request, answer
CONNECT_TIMEOUT_S = 10.0
REPLY_BYTES_MAX = 65_536
REPLY_BODY_TIMEOUT_S = 3.0  # for the reason of a failure, which may come with a 2xx; without a body that is a success
QUOTE_CHARS_MAX = 200
RETRY_AFTER_S_MAX = 3_600.0
USER_AGENT = "Offbeat (+alerts)"


class Transport(Service):
    """The HTTP client of channels."""

    name = "transport"

    def __init__(
        self,
        settings: Settings,
        now: Callable[[], Micros],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__()
        self.guard = Guard(settings.allow_private_destinations, settings.allow_destinations)
        self.mail_server = read_mail_server(settings.smtp_url) if settings.smtp_url else None
        self.send_timeout_s = SEND_TIMEOUT_S
        self._ehlo = read_ehlo(settings.smtp_ehlo)
        self.now = now  # log time
        self._tls = tls or ssl.create_default_context()
        self._resolver: Resolver | None = None
        self._session: aiohttp.ClientSession | None = None
        self._threads = GuardedThreads(self.guard)

    async def start(self) -> None:
        """Opens no connection yet."""
        self._resolver = Resolver(self.guard)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # the dispatcher bounds the attempts under way
                force_close=True,
                ssl=self._tls,
                resolver=self._resolver,
                socket_factory=self.guard.socket,
                ttl_dns_cache=10,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # no bomb goes off that is never unpacked
            trust_env=False,  # a proxy would do the connecting, and the guard would check the proxy
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        )

    async def stop(self) -> None:
        """Closes what is open."""
        await super().stop()
        if self._session is not None:
            await self._session.close()
        if self._resolver is not None:
            await self._resolver.close()
        self._threads.close()

    def now_s(self) -> int:
        """Seconds since 1970 in log time."""
        return self.now() // SECOND

    async def post(
        self,
        url: str,
        body: bytes,
        headers: dict[str, str],
        *,
        method: str = "POST",
        final: frozenset[int] = frozenset(),
        quote: bool = False,
    ) -> DeliveryReply:
        """One request. 2xx is a Reply; every other end is a DeliveryError, permanent for the statuses in `final`.

        A 2xx whose body says that the message was refused is a DeliveryError too (see refusals.py).

        `quote`: whether the receiver's words may be shown with the error: those of a service that says what is wrong,
        and not for kinds whose receiver may be anything.
        """
        assert self._session is not None, "not started"
        try:
            target = URL(url, encoded=True)
            async with (
                asyncio.timeout(self.send_timeout_s),
                self._session.request(method, target, data=body, headers=headers, allow_redirects=False) as response,
            ):
                empty = response.status == 204 or response.headers.get("Content-Length") == "0"
                reply = DeliveryReply(response.status, b"" if empty else await _read_reply(response))
                if not 200 <= response.status < 300:
                    raise _refusal(reply, response, final, quote)
                if (refusal := failure_in(reply.body)) is not None:
                    text = f"the receiver answered {response.status}, but refused it"
                    raise DeliveryError(
                        f"{text}: {refusal.text[:QUOTE_CHARS_MAX]}" if quote or refusal.known else text,
                        permanent=refusal.status in final,
                    )
                return reply
        except TimeoutError:
            raise DeliveryError(f"no answer within {self.send_timeout_s:g} s") from None
        except aiohttp.InvalidURL:
            raise DeliveryError("not an address to send to", permanent=True) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DeliveryError(_reason(error)) from None

    async def mail(self, server: MailServer, sender: str, recipients: list[str], content: bytes) -> None:
        """Hand a mail in. A server that takes it for some of the recipients has taken it. Raises DeliveryError."""
        try:
            async with asyncio.timeout(self.send_timeout_s * 2):
                connected = await self._connect(server.host, server.port, server.guarded)
                await send_mail(
                    connected, server, self._ehlo, self._tls, self.send_timeout_s, sender, recipients, content
                )
        except TimeoutError:
            raise DeliveryError(f"the mail server took longer than {self.send_timeout_s:g} s") from None
        except (OSError, ValueError) as error:
            raise DeliveryError(_reason(error)) from None

    async def in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Call what blocks, in one of few threads. Raises DeliveryError."""
        try:
            return await self._threads.run(work, *arguments, timeout_s=self.send_timeout_s * 2)
        except (DeliveryError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise DeliveryError(_reason(error)) from None

    async def _connect(self, host: str, port: int, guarded: bool) -> socket.socket:
        """A connected socket, its final address checked. Tries the addresses one after the other."""
        assert self._resolver is not None, "not started"
        loop = asyncio.get_running_loop()
        failure: OSError = OSError(f"{host} has no address")
        for info in await self._resolver.look_up(host, port):
            candidate: socket.socket | None = None
            try:
                if guarded:
                    candidate = self.guard.socket(info)
                else:
                    candidate = socket.socket(info[0], info[1], info[2])
                    candidate.setblocking(False)
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await loop.sock_connect(candidate, info[4])
                return candidate
            except TimeoutError:
                failure = OSError(f"{host} did not answer within {CONNECT_TIMEOUT_S:g} s")
            except OSError as error:
                failure = error
            if candidate is not None:
                candidate.close()
        raise failure


async def _read_reply(response: aiohttp.ClientResponse) -> bytes:
    """The first bytes of the body; a failure to read them hides no status."""
    read = bytearray()
    try:
        async with asyncio.timeout(REPLY_BODY_TIMEOUT_S):
            while len(read) < REPLY_BYTES_MAX and (chunk := await response.content.read(REPLY_BYTES_MAX - len(read))):
                read += chunk
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass
    return bytes(read)


def _refusal(
    reply: DeliveryReply, response: aiohttp.ClientResponse, final: frozenset[int], quote: bool
) -> DeliveryError:
    """The one line between permanent and passing for HTTP."""
    text = f"the receiver answered {reply.status}"
    if 300 <= reply.status < 400:
        text += ", a redirection, which is not followed"
    if quote and (body_text := " ".join(reply.body.decode(errors="replace").split())):
        text += f": {body_text[:QUOTE_CHARS_MAX]}"
    wish_s = _retry_after(reply, response)
    return DeliveryError(text, permanent=reply.status in final, retry_after_s=wish_s, answer=reply.body)


def _retry_after(reply: DeliveryReply, response: aiohttp.ClientResponse) -> float | None:
    """The receiver's wish in seconds: the header, or what Discord and Telegram write into the body."""
    wish: float | None = None
    header = response.headers.get("Retry-After", "").strip()
    if header.isdecimal():
        wish = float(header)
    elif header:
        try:
            # Against the receiver's own clock: no other clock is sure to agree with it.
            now = parsedate_to_datetime(response.headers.get("Date", ""))
            wish = (parsedate_to_datetime(header) - now).total_seconds()
        except (TypeError, ValueError, OverflowError):
            pass
    if wish is None and reply.status == 429 and len(reply.body) < 4_096:
        wish = _retry_after_in_body(reply.body)
    return None if wish is None else min(max(wish, 0.0), RETRY_AFTER_S_MAX)


def _retry_after_in_body(body: bytes) -> float | None:
    try:
        document = orjson.loads(body)
        wish = document.get("retry_after", (document.get("parameters") or {}).get("retry_after"))
        return float(wish)
    except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError, OverflowError):
        return None


def _reason(error: BaseException) -> str:
    """Why it did not work, in one line: what the guard said, else what the system said. Never with the address, which
    is a secret for most services.
    """
    cause = getattr(error, "os_error", None)
    if isinstance(cause, BlockedDestinationError):
        return str(cause)
    if isinstance(error, aiohttp.ClientResponseError):
        return "what was answered is not HTTP"
    return str(error) or type(error).__name__
