"""Webhooks: the signature as the standard has it, other shapes by template, failures that are distinguished."""

import base64
import hashlib
import hmac
import time
from typing import Any
from urllib.parse import parse_qs

import pytest

from offbeat_server.notify.channels.webhook import new_secret, sign
from tests.support.channels import digest, message, refusal, send
from tests.support.harness import Behaviour, Received, Receiver


def test_the_standards_own_example() -> None:
    """The vector that the reference libraries are tested with."""
    body = b'{"test": 2432232314}'
    signature = sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def verify(request: Received, secret: str) -> bool:
    """As a receiver does it, written down again from the standard."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    versions = [each.split(",", 1) for each in request.headers["webhook-signature"].split(" ")]
    fresh = abs(int(request.headers["webhook-timestamp"]) - time.time()) < 300
    return fresh and any(name == "v1" and hmac.compare_digest(value, expected) for name, value in versions)


async def test_what_is_sent() -> None:
    secrets = [new_secret(), new_secret()]
    async with Receiver() as receiver:
        await send("webhook", {"url": f"{receiver.url}/hook/%7Ex?sig=b%2Fc%2B", "secrets": secrets}, message())
        [request] = receiver.requests
    assert (request.method, request.path) == ("POST", "/hook/%7Ex?sig=b%2Fc%2B")
    assert request.headers["Content-Type"] == "application/json" and request.headers["webhook-id"] == "alert_abcd1234_7"
    assert request.headers["User-Agent"].startswith("Offbeat") and "Cookie" not in request.headers
    assert all(verify(request, secret) for secret in secrets), "while secrets are changed, both verify"
    assert not verify(request, new_secret())
    content = request.json
    assert content["type"] == "incident.opened" and content["timestamp"] == "2026-11-24T01:30:00.120000Z"
    assert content["data"]["monitor"] == "nightly-etl" and content["data"]["link"].endswith("/monitors/nightly-etl")
    assert content["data"]["title"] == "DOWN: Nightly <ETL>" and "Since: " in content["data"]["text"]


async def test_another_shape() -> None:
    definition: dict[str, Any] = {
        "method": "PUT",
        "headers": {"Authorization": "Token abc", "X-Kind": "alert", "content-type": "application/vnd.x+json"},
        "body": '{"short": "{{title}}", "severity": {{cause|json}}, "tags": {{tags|json}}}',
    }
    async with Receiver() as receiver:
        await send("webhook", {"url": receiver.url, **definition}, message(name='say "hi"'))
        form = {"content_type": "application/x-www-form-urlencoded", "body": "text={{title|url}}&link={{link|url}}"}
        await send("webhook", {"url": receiver.url, **form}, message())
        put, posted = receiver.requests
    assert put.method == "PUT" and put.headers["Authorization"] == "Token abc"
    assert put.headers.getall("Content-Type") == ["application/vnd.x+json"]  # type: ignore[attr-defined]
    assert put.json == {"short": 'DOWN: say "hi"', "severity": "failed", "tags": ["etl", "prod"]}
    assert parse_qs(posted.body.decode()) == {
        "text": ["DOWN: Nightly <ETL>"],
        "link": ["https://beat.example.org/monitors/nightly-etl"],
    }


async def test_a_digest_has_counts_and_first_names() -> None:
    async with Receiver() as receiver:
        await send("webhook", {"url": receiver.url}, digest())
        data = receiver.requests[0].json["data"]
    assert receiver.requests[0].headers["webhook-id"] == "digest_abcd1234_3"
    assert data["opened"] == 1_000 and len(data["first"]) == 20 and len(receiver.requests[0].body) < 20_000


@pytest.mark.parametrize(
    ("status", "permanent"),
    [
        *((status, True) for status in (400, 410, 413, 422)),
        *((status, False) for status in (401, 403, 404, 408, 429, 500, 502, 503, 504)),
    ],
)
async def test_permanent_and_passing(status: int, permanent: bool) -> None:
    async with Receiver(Behaviour(status=status)) as receiver:
        error = await refusal("webhook", {"url": receiver.url}, message())
    assert error.permanent is permanent and str(status) in str(error)


async def test_a_refused_connection_is_a_temporary_error() -> None:
    async with Receiver() as receiver:
        url = receiver.url
    error = await refusal("webhook", {"url": url}, message())
    assert not error.permanent and "Cannot connect to host" in str(error)
