"""Hands a mail to a server over a connection that is made already, so that its address could be checked.

Source: RFC 5321 §4.2.1: replies 4yz are passing, 5yz are permanent.
"""

import asyncio
import socket
import ssl
from email.errors import MessageError
from email.headerregistry import Address
from typing import Literal
from urllib.parse import parse_qs, unquote

import aiosmtplib
import structlog
from yarl import URL

from server.deliver.delivery import DeliveryError, MailServer
from server.errors import SettingsError

log = structlog.get_logger("courier")


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
    except ValueError as error:
        raise SettingsError(f"--smtp-url: {error}") from None
    if address.scheme not in securities or not address.host:
        raise SettingsError("--smtp-url must be like smtps://user:password@host/?from=offbeat@example.org")
    security, port = securities[address.scheme]
    senders = parse_qs(address.raw_query_string).get("from", [])
    for sender in senders:
        try:
            check_address(sender)
        except ValueError as error:
            raise SettingsError(f"--smtp-url: from {error}") from None
    return MailServer(
        address.host,
        address.explicit_port or port,
        security,
        unquote(address.raw_user) if address.raw_user else None,
        unquote(address.raw_password) if address.raw_password else None,
        senders[0] if senders else None,
        guarded=False,
    )


async def hand_in(
    connected: socket.socket,
    server: MailServer,
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
        local_hostname=socket.gethostname(),
    )
    try:
        await client.connect()
        refused_some, _ = await client.sendmail(sender, recipients, content)
        if refused_some:  # the mail has arrived, and yet somebody will never hear of it
            said = {address: f"{code} {text}"[:200] for address, (code, text) in refused_some.items()}
            log.warning("a mail server refused some of the recipients", host=server.host, refused=said)
    except aiosmtplib.SMTPRecipientsRefused as error:
        refused = error.recipients
        raise DeliveryError(
            "; ".join(f"{each.code} {each.message}" for each in refused),
            permanent=all(each.code >= 500 for each in refused),
        ) from None
    except aiosmtplib.SMTPResponseException as error:
        # A refused login says nothing about the mail, and can be put right before the mail is too old.
        permanent = error.code >= 500 and not isinstance(error, aiosmtplib.SMTPAuthenticationError)
        raise DeliveryError(f"{error.code} {error.message}", permanent=permanent) from None
    except aiosmtplib.SMTPException as error:
        raise DeliveryError(str(error) or type(error).__name__) from None
    finally:
        if isinstance(client.transport, asyncio.WriteTransport) and not client.transport.is_closing():
            client.transport.write(b"QUIT\r\n")  # RFC 5321 §4.1.1.10; its answer may fail and must not make us fail
        client.close()
