"""The way out: HTTP, mail and blocking libraries, all with the guard on final addresses, time-outs and limits.

A hostile or broken receiver may hang, drip, answer ten gigabytes or redirect elsewhere; here that costs one bounded
attempt. Connections are not kept: an alert is rare, and a connection that the other side has just closed would look
like a failure.
"""

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Literal
from urllib.parse import parse_qs, unquote

import aiohttp
import aiosmtplib
import orjson
from yarl import URL

from server.deliver.channel import DeliveryError, MailServer, Reply
from server.deliver.destinations import DestinationRefused, Guard, Resolver
from server.engine.ping import SECOND, Micros
from server.errors import SettingsError
from server.service import Service
from server.settings import Settings

SEND_TIMEOUT_S = 15.0  # everything: lookup, connection, TLS, request, answer
CONNECT_TIMEOUT_S = 10.0
REPLY_BYTES_MAX = 65_536
REPLY_BODY_TIMEOUT_S = 3.0  # for the reason of a failure; a success is one as soon as its status is there
QUOTE_CHARS_MAX = 200
RETRY_AFTER_S_MAX = 3_600.0
THREADS_MAX = 4
USER_AGENT = "Offbeat (+alerts)"


class Outbound(Service):
    """What channels send with."""

    name = "outbound"

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
        self.now = now  # log time
        self._tls = tls or ssl.create_default_context()
        self._resolver: Resolver | None = None
        self._session: aiohttp.ClientSession | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._threads_free = THREADS_MAX

    async def start(self) -> None:
        """Opens no connection yet."""
        self._resolver = Resolver(self.guard)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # the courier bounds what is under way
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
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

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
    ) -> Reply:
        """One request. 2xx is a Reply; every other end is a DeliveryError, permanent for the statuses in `final`.

        `quote`: whether the receiver's words may be shown with the error. Not those of any address somebody chose.
        """
        assert self._session is not None, "not started"
        try:
            target = URL(url, encoded=True)
            async with (
                asyncio.timeout(self.send_timeout_s),
                self._session.request(method, target, data=body, headers=headers, allow_redirects=False) as response,
            ):
                if 200 <= response.status < 300:
                    return Reply(response.status, b"")
                reply = Reply(response.status, await _read_reply(response))
                raise _refusal(reply, response, final, quote)
        except TimeoutError:
            raise DeliveryError(f"no answer within {self.send_timeout_s:g} s") from None
        except aiohttp.InvalidURL as error:
            raise DeliveryError(f"not an address to send to: {error}", permanent=True) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DeliveryError(_reason(error)) from None

    async def mail(self, server: MailServer, sender: str, recipients: list[str], content: bytes) -> None:
        """Hand a mail in. A server that takes it for some of the recipients has taken it. Raises DeliveryError."""
        client: aiosmtplib.SMTP | None = None
        try:
            async with asyncio.timeout(self.send_timeout_s * 2):
                client = aiosmtplib.SMTP(
                    hostname=server.host,
                    sock=await self._connect(server.host, server.port, server.guarded),
                    timeout=self.send_timeout_s,
                    use_tls=server.security == "tls",
                    start_tls=server.security == "starttls",
                    tls_context=self._tls if server.security != "none" else None,
                    username=server.username,
                    password=server.password,
                    local_hostname=socket.gethostname(),
                )
                await client.connect()
                await client.sendmail(sender, recipients, content)
        except TimeoutError:
            raise DeliveryError(f"the mail server took longer than {self.send_timeout_s:g} s") from None
        except aiosmtplib.SMTPRecipientsRefused as error:
            refused = error.recipients
            raise DeliveryError(
                "; ".join(f"{each.code} {each.message}" for each in refused)[:500],
                permanent=all(each.code >= 500 for each in refused),
            ) from None
        except aiosmtplib.SMTPResponseException as error:
            # A refused login says nothing about the mail, and can be put right before the mail is too old.
            permanent = error.code >= 500 and not isinstance(error, aiosmtplib.SMTPAuthenticationError)
            raise DeliveryError(f"{error.code} {error.message}"[:500], permanent=permanent) from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise DeliveryError(_reason(error)) from None
        finally:
            if client is not None:
                client.close()

    async def in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Call what blocks, in one of few threads. Past the time-out the thread is left to itself until it returns."""
        if self._threads is None:
            _watch_connections()
            self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="apprise")
        if not self._threads_free:
            raise DeliveryError("all threads for blocking services are taken by ones that hang")
        self._threads_free -= 1
        future = asyncio.get_running_loop().run_in_executor(
            self._threads, partial(_guarded, self.guard, work, *arguments)
        )
        future.add_done_callback(self._thread_ended)
        try:
            async with asyncio.timeout(self.send_timeout_s * 2):
                return await asyncio.shield(future)
        except TimeoutError:
            raise DeliveryError(f"no answer within {self.send_timeout_s * 2:g} s") from None
        except DeliveryError:
            raise
        except Exception as error:
            raise DeliveryError(_reason(error)) from None

    def _thread_ended(self, future: "asyncio.Future[Any]") -> None:
        self._threads_free += 1
        if not future.cancelled():
            future.exception()  # after a time-out nobody else asks for it

    async def _connect(self, host: str, port: int, guarded: bool) -> socket.socket:
        """A connected socket, its final address checked. Tries the addresses one after the other."""
        assert self._resolver is not None, "not started"
        loop = asyncio.get_running_loop()
        failure: OSError = OSError(f"{host} has no address")
        for info in await self._resolver.look_up(host, port):
            made: socket.socket | None = None
            try:
                if guarded:
                    made = self.guard.socket(info)
                else:
                    made = socket.socket(info[0], info[1], info[2])
                    made.setblocking(False)
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await loop.sock_connect(made, info[4])
                return made
            except TimeoutError:
                failure = OSError(f"{host} did not answer within {CONNECT_TIMEOUT_S:g} s")
            except OSError as error:
                failure = error
            if made is not None:
                made.close()
        raise failure


def read_mail_server(url: str) -> MailServer:
    """`smtps://user:password@host:465/?from=offbeat@example.org`; smtp:// is STARTTLS, smtp+insecure:// is neither.

    Raises SettingsError.
    """
    securities: dict[str, tuple[Literal["tls", "starttls", "none"], int]] = {
        "smtps": ("tls", 465),
        "smtp": ("starttls", 587),
        "smtp+insecure": ("none", 25),
    }
    try:
        address = URL(url)
    except ValueError as error:
        raise SettingsError(f"--smtp-url: {error}") from None
    if address.scheme not in securities or not address.host:
        raise SettingsError("--smtp-url must be like smtps://user:password@host/?from=offbeat@example.org")
    security, port = securities[address.scheme]
    senders = parse_qs(address.raw_query_string).get("from", [])
    return MailServer(
        address.host,
        address.explicit_port or port,
        security,
        unquote(address.raw_user) if address.raw_user else None,
        unquote(address.raw_password) if address.raw_password else None,
        senders[0] if senders else None,
        guarded=False,
    )


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


def _refusal(reply: Reply, response: aiohttp.ClientResponse, final: frozenset[int], quote: bool) -> DeliveryError:
    """The one line between permanent and passing for HTTP."""
    text = f"the receiver answered {reply.status}"
    if 300 <= reply.status < 400:
        text += ", a redirection, which is not followed"
    if quote and (said := " ".join(reply.body.decode(errors="replace").split())):
        text += f": {''.join(c for c in said if c.isprintable())[:QUOTE_CHARS_MAX]}"
    return DeliveryError(text, permanent=reply.status in final, retry_after_s=_retry_after(reply, response))


def _retry_after(reply: Reply, response: aiohttp.ClientResponse) -> float | None:
    """The receiver's wish in seconds: the header, or what Discord and Telegram write into the body."""
    wish: float | None = None
    header = response.headers.get("Retry-After", "").strip()
    if header.isdecimal():
        wish = float(header)
    elif header:
        try:
            # Against the receiver's own clock: nobody else's can be trusted to agree with it.
            now = parsedate_to_datetime(response.headers.get("Date", ""))
            wish = (parsedate_to_datetime(header) - now).total_seconds()
        except (TypeError, ValueError):
            pass
    if wish is None and reply.status == 429 and len(reply.body) < 4_096:
        wish = _retry_after_in_body(reply.body)
    return None if wish is None else min(max(wish, 0.0), RETRY_AFTER_S_MAX)


def _retry_after_in_body(body: bytes) -> float | None:
    try:
        said = orjson.loads(body)
        wish = said.get("retry_after", (said.get("parameters") or {}).get("retry_after"))
        return float(wish)
    except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError):
        return None


def _reason(error: BaseException) -> str:
    """Why it did not work, in one line: what the guard said, else what the system said."""
    cause = getattr(error, "os_error", None)
    if isinstance(cause, DestinationRefused):
        return str(cause)
    return " ".join((str(error) or type(error).__name__).split())[:500]


# ------------------------------------------------------------------------------------------------- blocking libraries

# A context variable, not a thread-local: a library that has threads of its own often copies the context into them.
_guard: ContextVar[Guard | None] = ContextVar("guard", default=None)
_watching = False


def _guarded(guard: Guard, work: Callable[..., Any], *arguments: Any) -> Any:
    context = copy_context()
    context.run(_guard.set, guard)
    return context.run(work, *arguments)


def _watch_connections() -> None:
    """From now on every connection made in a guarded context is checked, whatever library makes it.

    A hook for the interpreter's own audit events cannot be taken away again; everywhere else it does nothing.
    """
    global _watching
    if not _watching:
        _watching = True
        sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("socket.connect", "socket.sendto"):
        return
    guard = _guard.get()
    if guard is None:
        return
    address = arguments[1]
    if not isinstance(address, tuple):
        raise DestinationRefused(f"{address!r} is not a network address")
    guard.check(str(address[0]))
