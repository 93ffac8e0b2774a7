"""Hands a mail to a server over a connection that is made already, so that its address could be checked.

Source: RFC 5321 §4.2.1: replies 4yz are passing, 5yz are permanent; RFC 3463: what a refusal is about (5.1 the address,
5.2 the mailbox, 5.3.4 and 5.6 the mail, 5.7 policy). A refusal that is about us or about the connection can be put
right (EHLO name, login, relaying, a blocklist, greylisting), so the mail is tried again for as long as any alert.
"""

import asyncio
import re
import socket
import ssl
from email.errors import MessageError
from email.headerregistry import Address
from ipaddress import ip_address
from typing import Literal
from urllib.parse import parse_qs, unquote

import aiosmtplib
import structlog
from yarl import URL

from offbeat_server.common.errors import SettingsError, without_secrets
from offbeat_server.common.ip_address import unmapped
from offbeat_server.notify.transport.delivery import DeliveryError, MailServer

log = structlog.get_logger("smtp")


def check_address(value: str) -> str:
    """A plain address such as oncall@example.org. Raises ValueError."""
    try:
        address = Address(addr_spec=value)
    except (ValueError, IndexError, AttributeError, MessageError) as error:
        raise ValueError(f"must be an e-mail address: {error}") from None
    if not address.domain or not address.username or not value.isascii() or any(ord(c) < 33 for c in value):
        raise ValueError("must be an e-mail address such as oncall@example.org")
    return value


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
    except ValueError:
        address = URL()
    if address.scheme not in securities or not address.host:
        raise SettingsError(
            "--smtp-url (OFFBEAT_SMTP_URL): must be a URL such as smtps://user:password@host/?from=offbeat@example.org"
            f", not {without_secrets(url)!r}"
        )
    security, port = securities[address.scheme]
    senders = parse_qs(address.raw_query_string).get("from", [])
    for sender in senders:
        try:
            check_address(sender)
        except ValueError as error:
            raise SettingsError(f"--smtp-url (OFFBEAT_SMTP_URL): from {error}, not {sender!r}") from None
    return MailServer(
        address.host,
        address.explicit_port or port,
        security,
        unquote(address.raw_user) if address.raw_user else None,
        unquote(address.raw_password) if address.raw_password else None,
        senders[0] if senders else None,
        guarded=False,
    )


_ENHANCED = re.compile(r"\b5\.(\d{1,3})\.(\d{1,3})\b")
# Words of refusals that say nothing about the mail, where no enhanced code does.
_POLICY = re.compile(
    r"helo|ehlo|relay|gr[ae]y|block|black|denied|polic|spf|dkim|dmarc|auth|reputation|rate|too many|reverse|ptr|dns"
    r"|login|log in|credential|not allowed|not permitted|reject.*(host|client|sender|ip)|tls|encrypt|hostname",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?=.{1,255}\Z)(?!-)[A-Za-z0-9-]{1,63}(\.(?!-)[A-Za-z0-9-]{1,63})*")


def read_ehlo(value: str | None) -> str | None:
    """A host name, or an address literal such as [192.0.2.1] or [IPv6:2001:db8::1]. Raises SettingsError."""
    if not value:
        return None
    if value.startswith("[") and value.endswith("]"):
        try:
            ip_address(value[1:-1].removeprefix("IPv6:"))
        except ValueError:
            pass
        else:
            return value
    elif _NAME.fullmatch(value):
        return value
    raise SettingsError(f"--smtp-ehlo must be a host name or an address literal such as [192.0.2.1], not {value!r}")


def ehlo_name(configured: str | None, connected: socket.socket) -> str:
    """The client's name in EHLO (RFC 5321 §4.1.1.1): the setting, a host name with a domain, or its own address.

    The host name of a container has no domain, and many servers refuse it.
    """
    if configured:
        return configured
    name = socket.gethostname()
    if "." in name and not name.endswith((".local", ".localdomain", ".internal")) and _NAME.fullmatch(name):
        return name
    address = unmapped(ip_address(str(connected.getsockname()[0]).partition("%")[0]))
    return f"[{address}]" if address.version == 4 else f"[IPv6:{address}]"


def is_final(code: int, text: str, of_recipient: bool) -> bool:
    """Whether a refusal is about this mail or its recipient, so that the same mail will never be taken."""
    if code < 500:
        return False
    enhanced = _ENHANCED.search(text)
    if enhanced:
        subject, detail = int(enhanced[1]), int(enhanced[2])
        return (subject == 1 and detail not in (7, 8)) or subject == 6 or (subject, detail) in ((2, 1), (2, 3), (3, 4))
    if _POLICY.search(text):
        return False
    return code in (550, 551, 553) if of_recipient else code == 552


async def send_mail(
    connected: socket.socket,
    server: MailServer,
    ehlo: str | None,
    tls: ssl.SSLContext,
    timeout_s: float,
    sender: str,
    recipients: list[str],
    content: bytes,
) -> None:
    """One mail. Takes the socket over. Raises DeliveryError, or OSError and TimeoutError of the connection."""
    client = aiosmtplib.SMTP(
        hostname=server.host,
        sock=connected,
        timeout=timeout_s,
        use_tls=server.security == "tls",
        start_tls=server.security == "starttls",
        tls_context=tls if server.security != "none" else None,
        username=server.username,
        password=server.password,
        local_hostname=ehlo_name(ehlo, connected),
    )
    try:
        await client.connect()
        refused_some, _ = await client.sendmail(sender, recipients, content)
        if refused_some:  # the mail has arrived, but some recipients will never get it
            replies = {address: f"{code} {text}"[:200] for address, (code, text) in refused_some.items()}
            log.warning("smtp.recipients_rejected", host=server.host, answers=replies)
    except aiosmtplib.SMTPRecipientsRefused as error:
        refused = error.recipients
        raise DeliveryError(
            "; ".join(f"{each.code} {each.message}" for each in refused),
            permanent=all(is_final(each.code, each.message, of_recipient=True) for each in refused),
        ) from None
    except aiosmtplib.SMTPDataError as error:
        permanent = is_final(error.code, error.message, of_recipient=False)
        raise DeliveryError(f"{error.code} {error.message}", permanent=permanent) from None
    except aiosmtplib.SMTPResponseException as error:  # to the greeting, EHLO, STARTTLS, login or sender: about us
        raise DeliveryError(f"{error.code} {error.message}") from None
    except aiosmtplib.SMTPException as error:
        raise DeliveryError(str(error) or type(error).__name__) from None
    finally:
        if isinstance(client.transport, asyncio.WriteTransport) and not client.transport.is_closing():
            client.transport.write(b"QUIT\r\n")  # RFC 5321 §4.1.1.10; its answer may fail and must not make us fail
        client.close()
