"""E-mail through a real SMTP server: both bodies, one thread an incident, TLS that is checked, reply codes."""

import asyncio
import contextlib
import email
import re
import ssl
from collections.abc import AsyncIterator
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from offbeat_server.common.errors import SettingsError
from offbeat_server.config import Settings
from offbeat_server.notify.channel import Message
from offbeat_server.notify.channels.registry import read_channel
from offbeat_server.notify.transport.delivery import DeliveryError
from offbeat_server.notify.transport.http_client import Transport
from offbeat_server.notify.transport.smtp import read_mail_server
from tests.support.channels import digest, long_message, make_certificate, message, refusal, send
from tests.support.harness import HANG_S, eventually

TO = ["oncall@example.org", "boss@example.org"]


class Mailbox:
    """The server's side: takes mails, or says what `answers` holds for a step."""

    def __init__(self) -> None:
        self.mails: list[tuple[Envelope, EmailMessage]] = []
        self.answers: dict[str, str] = {}
        self.logins: list[tuple[bytes, bytes]] = []
        self.quits = 0

    async def handle_RCPT(
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self.answers.get(address) or self.answers.get("RCPT")
        if answer is None:
            envelope.rcpt_tos.append(address)
        return answer or "250 OK"

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:
        if "DATA" in self.answers:
            return self.answers["DATA"]
        assert isinstance(envelope.content, bytes)
        parsed = email.message_from_bytes(envelope.content, policy=default)
        assert isinstance(parsed, EmailMessage)
        self.mails.append((envelope, parsed))
        return "250 OK"

    async def handle_QUIT(self, server: Any, session: Session, envelope: Envelope) -> str:
        self.quits += 1
        return "221 Bye"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, credentials: Any) -> AuthResult:
        self.logins.append((credentials.login, credentials.password))
        right = credentials.password == b"right"
        return AuthResult(success=right, handled=right)


@contextlib.asynccontextmanager
async def mail_server(mailbox: Mailbox, tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[int]:
    """A running server, with TLS from the first byte where `tls` is given; its port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(mailbox, loop=loop, **options), "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


def plain(port: int, **more: Any) -> dict[str, Any]:
    return {
        "to": TO,
        "sender": "offbeat@example.net",
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        **more,
    }


async def test_what_is_sent(mailbox: Mailbox) -> None:
    async with mail_server(mailbox) as port:
        await send("email", plain(port), message())
    [(envelope, mail)] = mailbox.mails
    assert envelope.mail_from == "offbeat@example.net" and envelope.rcpt_tos == TO
    assert mail["From"] == "offbeat@example.net" and mail["To"] == ", ".join(TO)
    assert mail["Subject"] == "DOWN: Nightly <ETL>: Stage load failed with exit code 3 (run 42)."
    assert mail["Date"] == "Tue, 24 Nov 2026 01:30:00 +0000" and mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content_type() == "multipart/alternative"
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None and html is not None
    assert "Since: 2026-11-24 01:30:00 UTC" in text.get_content() and "<boom> *x*" in text.get_content()
    assert "&lt;boom&gt;" in html.get_content() and "Open in Offbeat" in html.get_content()


async def test_the_connection_is_ended_as_the_protocol_says(mailbox: Mailbox) -> None:
    async def has_quit_twice() -> bool:
        return mailbox.quits == 2

    mailbox.answers = {"DATA": "451 later"}
    async with mail_server(mailbox) as port:
        await refusal("email", plain(port), message())
        mailbox.answers = {}
        await send("email", plain(port), message())
        await eventually(has_quit_twice)


async def test_an_incident_is_one_thread_and_a_retry_is_the_same_mail(mailbox: Mailbox) -> None:
    async with mail_server(mailbox) as port:
        for what in (message(), message(), message("resolved", id=9), message(incident=13, id=11)):
            await send("email", plain(port), what)
    first, again, resolved, other = [envelope.content for envelope, _ in mailbox.mails]
    assert first == again
    headers = [mail for _, mail in mailbox.mails]
    assert headers[0]["Message-ID"] == "<alert_abcd1234_7@example.net>" != headers[2]["Message-ID"]
    assert headers[0]["References"] == headers[2]["References"] == headers[0]["In-Reply-To"]
    assert headers[0]["References"] != headers[3]["References"]
    assert resolved != other


@pytest.mark.parametrize("what", [long_message(), digest(), message(name="Straße\r\nBcc: x@example.org", reason="")])
async def test_any_text_makes_a_correct_mail(mailbox: Mailbox, what: Message) -> None:
    async with mail_server(mailbox) as port:
        await send("email", plain(port), what)
    [(envelope, mail)] = mailbox.mails
    assert envelope.rcpt_tos == TO and mail["Bcc"] is None and len(mail["Subject"]) < 200
    assert isinstance(envelope.content, bytes)
    assert all(len(line) <= 998 for line in envelope.content.split(b"\r\n"))


async def test_the_text_of_a_job_begins_no_part_of_a_mail(mailbox: Mailbox) -> None:
    """Its writer has seen an earlier alert, so knows what the next ones are called."""
    async with mail_server(mailbox) as port:
        await send("email", plain(port), message(id=7))
        [(envelope, _)] = mailbox.mails
        assert isinstance(envelope.content, bytes)
        boundary = re.search(rb'boundary="([^"]+)"', envelope.content)
        assert boundary is not None
        guesses = [boundary[1].decode(), *(f"=_alert_abcd1234_{id}" for id in (7, 8))]
        job_text = "".join(f"--{each}\nContent-Type: text/html\n\n<p>Sign in here\n--{each}--\n" for each in guesses)
        await send("email", plain(port), message(id=8, last_message=job_text))
    mail = mailbox.mails[1][1]
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    text = mail.get_body(("plain",))
    assert text is not None and text.get_content().count("<p>Sign in here") == 3


@pytest.mark.parametrize(
    ("answers", "permanent", "reason"),
    [
        ({"RCPT": "550 no such user"}, True, "550 no such user"),
        ({"RCPT": "550 5.1.1 unknown user"}, True, "5.1.1"),
        ({"RCPT": "553 5.1.3 bad address"}, True, "5.1.3"),
        ({"RCPT": "450 greylisted"}, False, "450 greylisted"),
        ({"RCPT": "550 greylisted, try again"}, False, "550"),
        ({"RCPT": "504 5.5.2 <box>: Helo command rejected: need fully-qualified hostname"}, False, "504"),
        ({"RCPT": "550 <box>: Helo command rejected: Host not found"}, False, "Helo"),
        ({"RCPT": "554 5.7.1 <x@y>: Relay access denied"}, False, "5.7.1"),
        ({"RCPT": "550 5.7.1 Unable to relay"}, False, "5.7.1"),
        ({"RCPT": "553 sorry, that domain isn't in my list of allowed rcpthosts; relaying denied"}, False, "553"),
        ({"RCPT": "530 5.7.0 Authentication required"}, False, "530"),
        ({"RCPT": "550 5.7.26 SPF and DKIM did not pass"}, False, "5.7.26"),
        ({"RCPT": "550 5.1.8 sender address rejected: domain not found"}, False, "5.1.8"),
        ({"RCPT": "554 Service unavailable; Client host [192.0.2.1] blocked using zen"}, False, "blocked"),
        ({"DATA": "552 5.3.4 message too big"}, True, "5.3.4"),
        ({"DATA": "550 5.6.0 malformed"}, True, "5.6.0"),
        ({"DATA": "552 message size exceeds limit"}, True, "552"),
        ({"DATA": "554 spam"}, False, "554 spam"),
        ({"DATA": "550 5.7.1 rejected by policy"}, False, "policy"),
        ({"DATA": "451 later"}, False, "451 later"),
    ],
)
async def test_permanent_and_passing(mailbox: Mailbox, answers: dict[str, str], permanent: bool, reason: str) -> None:
    mailbox.answers = answers
    async with mail_server(mailbox) as port:
        error = await refusal("email", plain(port), message())
    assert error.permanent is permanent and reason in str(error)


async def test_a_name_for_ehlo_that_servers_accept(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    async def named(
        server: Any, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        names.append(hostname)
        return responses

    mailbox.handle_EHLO = named  # type: ignore[attr-defined]
    async with mail_server(mailbox) as port:
        for host, configured in (
            ("3f2a9c", None),
            ("localhost.localdomain", None),
            ("bad_name.example.org", None),
            ("beat.example.org", None),
            ("3f2a9c", "mail.example.net"),
            ("3f2a9c", "[IPv6:2001:db8::1]"),
        ):
            monkeypatch.setattr("offbeat_server.notify.transport.smtp.socket.gethostname", lambda host=host: host)
            await send("email", plain(port), message(), smtp_ehlo=configured)
    assert names == ["[127.0.0.1]"] * 3 + ["beat.example.org", "mail.example.net", "[IPv6:2001:db8::1]"]
    for wrong in ("a b", "x\r\ny", "[nowhere]", "-a.example.org", "[192.0.2.1"):
        with pytest.raises(SettingsError, match="--smtp-ehlo must be"):
            Transport(Settings(smtp_ehlo=wrong), lambda: 0)


async def test_a_server_without_8bitmime_gets_seven_bits(mailbox: Mailbox) -> None:
    async with mail_server(mailbox) as port:
        await send("email", plain(port), message(name="Straße 東京", last_message="größer " * 300))
    [(envelope, mail)] = mailbox.mails
    assert isinstance(envelope.content, bytes) and envelope.content.isascii()
    text = mail.get_body(("plain",))
    assert text is not None and "größer größer" in text.get_content() and "Straße 東京" in mail["Subject"]


async def test_one_of_two_recipients_is_enough_and_the_log_names_the_other(
    mailbox: Mailbox, capfd: pytest.CaptureFixture[str]
) -> None:
    mailbox.answers = {TO[0]: "550 gone"}
    async with mail_server(mailbox) as port:
        await send("email", plain(port), message())
    assert mailbox.mails[0][0].rcpt_tos == [TO[1]]
    output = capfd.readouterr().out
    assert "smtp.recipients_rejected" in output and f"'{TO[0]}': '550 gone'" in output


async def test_a_refused_connection_is_a_temporary_error(mailbox: Mailbox) -> None:
    async with mail_server(mailbox) as port:
        pass
    assert not (await refusal("email", plain(port), message())).permanent


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_tls_is_checked(mailbox: Mailbox, tmp_path: Path, security: str) -> None:
    certificate = tmp_path / "tls.pem"
    presented = make_certificate(certificate)
    if security == "tls":
        options: dict[str, Any] = {"tls": presented}
    else:
        options = {"tls_context": presented, "require_starttls": True}
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with mail_server(mailbox, **options) as port:
        channel = read_channel("email", plain(port, host="localhost", security=security))
        for tls, arrives in ((None, False), (trusting, True)):
            out = Transport(Settings(allow_private_destinations=True), lambda: 0, tls)
            out.send_timeout_s = HANG_S
            await out.start()
            try:
                await channel.send(message(), channel.compose(message()), out)
                assert arrives
            except DeliveryError as error:
                assert not arrives and "certificate verify failed" in str(error) and not error.permanent
            finally:
                await out.stop()
    assert len(mailbox.mails) == 1


@pytest.mark.filterwarnings("ignore:Requiring AUTH")
async def test_a_login(mailbox: Mailbox) -> None:
    options: Any = {"authenticator": mailbox.authenticate, "auth_require_tls": False, "auth_required": True}
    async with mail_server(mailbox, **options) as port:
        await send("email", plain(port, username="bob", password="right"), message())
        error = await refusal("email", plain(port, username="bob", password="wrong"), message())
    assert set(mailbox.logins) == {(b"bob", b"right"), (b"bob", b"wrong")}
    assert not error.permanent and "535" in str(error) and "wrong" not in str(error)  # a password can be corrected


async def test_the_operators_own_server_for_channels_that_name_none(mailbox: Mailbox) -> None:
    async with mail_server(mailbox) as port:
        url = f"smtp+insecure://127.0.0.1:{port}/?from=alerts@example.net"
        # The operator's server may be a private one; one that a channel names may not.
        await send("email", {"to": TO}, message(), smtp_url=url, allow_private_destinations=False)
        error = await refusal("email", plain(port), message(), allow_private_destinations=False)
    assert mailbox.mails[0][0].mail_from == "alerts@example.net"
    assert "is not a public address" in str(error)
    assert "no mail server" in str(await refusal("email", {"to": TO}, message()))
    url = f"smtp+insecure://127.0.0.1:{port}/"
    assert "no sender" in str(await refusal("email", {"to": TO}, message(), smtp_url=url))


def test_the_operators_address() -> None:
    server = read_mail_server("smtps://bob%40x:p%2Fw@mail.example.org/?from=a@b.org")
    assert server == ("mail.example.org", 465, "tls", "bob@x", "p/w", "a@b.org", False)
    assert read_mail_server("smtp://mail:2525")[:3] == ("mail", 2525, "starttls")
    for wrong in ("http://x", "mail.example.org", "smtp://", "smtp://mail/?from=a@b.org%0d%0aBcc:c@d.org"):
        with pytest.raises(SettingsError, match="--smtp-url"):
            read_mail_server(wrong)
