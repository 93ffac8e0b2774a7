"""E-mail as text and HTML, one thread for each incident.

Source: RFC 5322 (Message-ID, References), RFC 3834 (Auto-Submitted), RFC 5321 (4yz passing, 5yz permanent). The
Message-ID is the alert's, so a mail that is sent twice is shown once; all mails of an incident refer to one identifier
that no mail has, by which mail programs put them into one thread.
"""

import hashlib
import re
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from offbeat_server.engine.model.enums import AlertKind
from offbeat_server.notify.channel import Channel, Message
from offbeat_server.notify.messages.render import cut
from offbeat_server.notify.transport.delivery import DeliveryError, MailServer
from offbeat_server.notify.transport.http_client import Transport
from offbeat_server.notify.transport.smtp import check_address

_PORTS = {"tls": 465, "starttls": 587, "none": 25}
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


MailAddress = Annotated[str, Field(max_length=254), AfterValidator(check_address)]


class Email(Channel):
    """Hands mails to a server: its own, or the operator's (--smtp-url)."""

    kind: ClassVar[str] = "email"
    hidden: ClassVar[frozenset[str]] = frozenset(("password",))
    per_minute_default: ClassVar[int] = 60

    to: Annotated[tuple[MailAddress, ...], Field(min_length=1, max_length=50, description="Addresses of recipients.")]
    sender: MailAddress | None = Field(None, description="Address of the sender. If empty: the one in --smtp-url.")
    host: Annotated[str, Field(max_length=255, pattern=r"^[A-Za-z0-9.:_-]+$")] | None = Field(
        None, description="Name of the mail server. If empty: the one in --smtp-url."
    )
    port: int | None = Field(
        None,
        ge=1,
        le=65_535,
        description="Port of the mail server. If empty: 465 for tls, 587 for starttls, 25 for none.",
    )
    security: Literal["tls", "starttls", "none"] = Field("starttls", description="Encryption of the connection.")
    username: Annotated[str, Field(max_length=500)] | None = Field(None, description="Name for the sign-in at `host`.")
    password: Annotated[str, Field(max_length=500)] | None = Field(None, description="Password for the sign-in.")

    def compose(self, message: Message) -> bytes:
        rendered = message.rendered
        # Seven bits: a server need not know 8BITMIME (RFC 6152), and the bytes are made before the server is asked.
        mail = EmailMessage(policy=SMTP.clone(cte_type="7bit"))
        mail["To"] = ", ".join(self.to)
        subject = (
            rendered.title
            if message.kind in (AlertKind.DIGEST, AlertKind.OVER)
            else f"{rendered.title}: {rendered.lead}"
        )
        mail["Subject"] = cut(" ".join(subject.split()), 180)
        mail["Date"] = format_datetime(datetime.fromisoformat(message.at))
        mail["Auto-Submitted"] = "auto-generated"
        mail["X-Offbeat-Id"] = message.id
        mail.set_content(f"{rendered.title}\n\n{rendered.text}\n")
        mail.add_alternative(rendered.html, subtype="html")
        # The library would draw a new boundary each time; a retry sends the same bytes. Made of the words themselves,
        # so that no job can say it in them and begin a part of its own; short, because a long one would be folded.
        digest = hashlib.sha256(f"{message.id}\0{rendered.title}\0{rendered.text}\0{rendered.html}".encode())
        mail.set_boundary(f"=_{digest.hexdigest()[:32]}")
        return mail.as_bytes()

    async def send(self, message: Message, body: bytes, out: Transport) -> None:
        server = self._server(out)
        sender = self.sender or server.sender
        if sender is None:
            raise DeliveryError(
                "no sender: give the channel one, or the server an --smtp-url with ?from=", permanent=True
            )
        await out.mail(server, sender, list(self.to), _envelope(message, sender) + body)

    def _server(self, out: Transport) -> MailServer:
        if self.host is not None:
            port = self.port or _PORTS[self.security]
            return MailServer(self.host, port, self.security, self.username, self.password, None, guarded=True)
        if out.mail_server is None:
            raise DeliveryError("no mail server: give the channel a host, or the server an --smtp-url", permanent=True)
        return out.mail_server


def _envelope(message: Message, sender: str) -> bytes:
    """The header lines that need the sender, whose domain makes the identifiers unique."""
    domain = sender.rpartition("@")[2]
    thread = f"<{_UNSAFE.sub('.', message.thread)}@{domain}>"
    lines = (
        f"From: {sender}",
        f"Message-ID: <{_UNSAFE.sub('.', message.id)}@{domain}>",
        f"In-Reply-To: {thread}",
        f"References: {thread}",
    )
    return "".join(f"{line}\r\n" for line in lines).encode()
