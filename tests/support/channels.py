"""Messages for the tests of channels, and a way out to receivers on this machine."""

import contextlib
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs

from offbeat_server.config import Settings
from offbeat_server.db.repositories.outbox import Digest, DigestMember
from offbeat_server.engine.model.enums import AlertKind
from offbeat_server.notify.channel import Channel, Message
from offbeat_server.notify.channels.registry import read_channel
from offbeat_server.notify.messages.message_builder import MessageBuilder
from offbeat_server.notify.messages.payload_schema import webhook_schema
from offbeat_server.notify.transport.delivery import DeliveryError
from offbeat_server.notify.transport.http_client import Transport
from tests.support.harness import HANG_S, needs

MESSAGE_BUILDER = MessageBuilder("abcd1234", "https://beat.example.org")
AT = "2026-11-24T01:30:00.120000Z"
FACTS: dict[str, Any] = {
    "monitor": "nightly-etl",
    "name": "Nightly <ETL>",
    "project": "default",
    "incident": 12,
    "cause": "failed",
    "reason": "stage load failed with exit code 3 (run 42)",
    "run": "42",
    "stage": "load",
    "opened_at": "2026-11-24T01:30:00Z",
    "decided_at": AT,
    "last_ping_at": "2026-11-24T01:04:00Z",
    "expected": "a ping at 0 2 * * * (Europe/Berlin), with a grace period of 10 min",
    "last_message": "Traceback & more\n```\n<boom> *x* [y](z)",
    "tags": ["etl", "prod"],
}


def assert_published(body: Any) -> None:
    """This body of a webhook is as the published schema says, and has no field that the schema does not describe."""
    errors = [f"{each.instance_path}: {each.message}" for each in _strict().iter_errors(body)]
    assert not errors, errors


@cache
def _strict() -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(closed(webhook_schema()), validate_formats=True)


def closed(schema: Any) -> Any:
    """The same schema without room for fields that it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {name: closed(each) for name, each in schema.items()}
    return {**parts, "additionalProperties": False} if isinstance(schema.get("properties"), dict) else parts


def message(kind: str = "opened", id: int = 7, **changes: Any) -> Message:
    """One alert as the dispatcher makes it."""
    facts: Any = {**FACTS, **({"resolved_at": "2026-11-24T03:05:00Z"} if kind == "resolved" else {}), **changes}
    return MESSAGE_BUILDER.alert(DigestMember(id, 1, 12, kind, facts, None, ()), AT, "default")


def long_message() -> Message:
    """One that is as long as facts can be."""
    return message(
        name="<n>" * 200,
        reason="&r<" * 2_000,
        last_message="<m>" * 5_000,
        expected="e" * 5_000,
        causes=[{"reason": f"<c{n}>" * 100} for n in range(200)],
        tags=["t" * 50] * 50,
    )


def digest(id: int = 3, **counts: int) -> Message:
    """Many alerts in one."""
    first = [{"name": f"Job {n}", "kind": "opened", "reason": "no ping"} for n in range(20)]
    facts: Any = {
        "kind": "digest",
        "alerts": 1_000,
        "opened": 1_000,
        **counts,
        "first": first,
        "since": AT,
        "until": AT,
        "project": "default",
    }
    row = Digest(id, 1, AlertKind.DIGEST, 1, 1_000, None, facts, b"", datetime.fromisoformat(AT), False, None)
    return MESSAGE_BUILDER.stored_digest(row, facts, AT)


def over(closes: int = 3) -> Message:
    """All of a digest are resolved."""
    return MESSAGE_BUILDER.over(closes, {"kind": AlertKind.OVER, "alerts": 1_000, "closes": closes}, AT)


@contextlib.asynccontextmanager
async def transport(**changes: Any) -> AsyncIterator[Transport]:
    """A way out."""
    out = Transport(Settings(**{"allow_private_destinations": True, **changes}), lambda: time.time_ns() // 1000)
    out.send_timeout_s = HANG_S
    await out.start()
    try:
        yield out
    finally:
        await out.stop()


async def send(kind: str, definition: dict[str, Any], what: Message, **changes: Any) -> Channel:
    """Compose and send, once; composing is pure."""
    channel = read_channel(kind, definition)
    body = channel.compose(what)
    assert channel.compose(what) == body
    async with transport(**changes) as out:
        await channel.send(what, body, out)
    return channel


async def refusal(kind: str, definition: dict[str, Any], what: Message, **changes: Any) -> DeliveryError:
    """The error of sending."""
    try:
        await send(kind, definition, what, **changes)
    except DeliveryError as error:
        return error
    raise AssertionError("it was delivered")


def make_certificate(path: Path) -> ssl.SSLContext:
    """A self-signed certificate for localhost with its key, in one file; what a server presents it with."""
    key = path.with_name("key.pem")
    command = [needs("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + key.read_bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    return context
