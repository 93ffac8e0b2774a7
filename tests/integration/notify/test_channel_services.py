"""Chat and paging services: the request that each documents, within its limits (sources: the kinds' docstrings)."""

import asyncio
import re
from html import unescape
from typing import Any

import pytest
import requests

from offbeat_server.notify.channel import Message
from tests.support.channels import AT, digest, long_message, message, over, refusal, send
from tests.support.harness import HANG_S, Behaviour, Received, Receiver

MESSAGES = {
    "opened": message(),
    "resolved": message("resolved"),
    "reminder": message("reminder"),
    "operator": message("operator", monitor=None, name=None, incident=None, reason="an outage of 3 s"),
    "test": message("test"),
    "long": long_message(),
    "digest": digest(),
    "resolved digest": digest(opened=0, resolved=1_000),
    "over": over(),
}
each_message = pytest.mark.parametrize("what", MESSAGES.values(), ids=MESSAGES.keys())


async def sent(kind: str, definition: dict[str, Any], what: Message, field: str | None = "url") -> Received:
    async with Receiver() as receiver:
        await send(kind, {**definition, **({field: receiver.url + "/x"} if field else {})}, what)
        [request] = receiver.requests
    assert request.method == "POST" and request.headers["Content-Type"] == "application/json"
    return request


@each_message
async def test_slack(what: Message) -> None:
    content = (await sent("slack", {}, what)).json
    assert content["text"] and len(content["text"]) <= 40_000
    assert 2 <= len(content["blocks"]) <= 50
    header, lead, *rest = content["blocks"]
    assert header["type"] == "header" and header["text"]["type"] == "plain_text"
    assert 1 <= len(header["text"]["text"]) <= 150
    assert lead["text"]["type"] == "mrkdwn" and 1 <= len(lead["text"]["text"]) <= 3_000
    for block in rest:
        assert block["type"] in ("section", "context")
        for field in block.get("fields", []):
            assert field["type"] == "mrkdwn" and 1 <= len(field["text"]) <= 2_000
        assert len(block.get("fields", [])) <= 10 and len(block.get("text", {}).get("text", "")) <= 3_000
        # Angle brackets stand only around our own link; those of the job's words are escaped.
        text = block.get("text", {}).get("text", "") + "".join(f["text"] for f in block.get("fields", []))
        assert not re.search(r"[<>]", text) and text.count("```") in (0, 2)


async def test_slack_says_who_and_where() -> None:
    blocks = (await sent("slack", {}, message())).json["blocks"]
    assert blocks[0]["text"]["text"] == "🔴 DOWN: Nightly <ETL>"
    assert blocks[-1]["elements"][0]["text"] == "<https://beat.example.org/monitors/nightly-etl|Open in Offbeat>"


@each_message
async def test_discord(what: Message) -> None:
    content = (await sent("discord", {}, what)).json
    assert content["allowed_mentions"] == {"parse": []}
    [embed] = content["embeds"]
    assert 1 <= len(embed["title"]) <= 256 and 1 <= len(embed["description"]) <= 4_096
    assert 0 <= embed["color"] <= 0xFFFFFF and embed["timestamp"] == AT
    fields = embed.get("fields", [])
    assert len(fields) <= 25
    assert all(1 <= len(field["name"]) <= 256 and 1 <= len(field["value"]) <= 1_024 for field in fields)
    total = len(embed["title"]) + len(embed["description"]) + sum(len(f["name"]) + len(f["value"]) for f in fields)
    assert total <= 6_000


@each_message
async def test_telegram(what: Message) -> None:
    definition = {"token": "123456:ABCDEFGHIJKLMNOPQRSTUVWX", "chat": "@ops_alerts", "topic": 5}
    request = await sent("telegram", definition, what, "api")
    assert request.path == "/x/bot123456:ABCDEFGHIJKLMNOPQRSTUVWX/sendMessage"
    content = request.json
    assert content["chat_id"] == "@ops_alerts" and content["message_thread_id"] == 5
    assert content["parse_mode"] == "HTML" and content["link_preview_options"] == {"is_disabled": True}
    assert set(re.findall(r"</?([a-z]+)", content["text"])) <= {"b", "pre", "a"}
    shown = unescape(re.sub(r"<[^>]+>", "", content["text"]))
    assert 1 <= len(shown.encode("utf-16-le")) // 2 <= 4_096


async def test_telegram_asks_for_a_pause_in_the_body() -> None:
    body = b'{"ok": false, "error_code": 429, "parameters": {"retry_after": 34}}'
    async with Receiver(Behaviour(status=429, body=body)) as receiver:
        definition = {"token": "123456:ABCDEFGHIJKLMNOPQRSTUVWX", "chat": 1, "api": receiver.url}
        error = await refusal("telegram", definition, message())
    assert error.retry_after_s == 34 and not error.permanent and "ABCDEF" not in str(error)


@each_message
async def test_msteams(what: Message) -> None:
    request = await sent("msteams", {}, what)
    assert len(request.body) <= 28 * 1024
    content = request.json
    assert content["type"] == "message"
    [attachment] = content["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert card["type"] == "AdaptiveCard" and card["version"] == "1.4" and "$schema" in card
    assert {block["type"] for block in card["body"]} <= {"TextBlock", "FactSet"}
    assert card["body"][0]["color"] in ("attention", "warning", "good", "accent")
    for action in card.get("actions", []):
        assert action["type"] == "Action.OpenUrl" and action["url"].startswith("https://beat.example.org/")


async def test_msteams_shows_marks_of_markdown_as_they_are() -> None:
    blocks = (await sent("msteams", {}, message())).json["attachments"][0]["content"]["body"]
    assert blocks[-1]["text"].endswith(r"<boom> \*x\* \[y\](z)")
    blocks = (await sent("msteams", {}, message(name="[y](z)"))).json["attachments"][0]["content"]["body"]
    assert blocks[0]["text"] == r"🔴 DOWN: \[y\](z)"


async def test_discord_makes_no_links_of_a_jobs_text() -> None:
    [embed] = (await sent("discord", {}, message(reason="[a](b) <@1> *x*", run="[c](d)"))).json["embeds"]
    assert embed["description"].startswith(r"\[a\](b) \<@1\> \*x\*.")
    assert [each["value"] for each in embed["fields"] if each["name"] == "Run"] == [r"\[c\](d)"]


@each_message
async def test_ntfy(what: Message) -> None:
    request = await sent("ntfy", {"topic": "alerts", "token": "tk_abc"}, what, "server")
    assert request.path == "/x/" and request.headers["Authorization"] == "Bearer tk_abc"
    content = request.json
    assert content["topic"] == "alerts" and content["title"]
    assert 1 <= len(content["message"].encode()) <= 4_096
    assert content["priority"] in (3, 4) and len(content["tags"]) == 1
    assert content.get("click", "https://").startswith("https://")


@each_message
async def test_pagerduty(what: Message, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Receiver(Behaviour(status=202)) as receiver:
        monkeypatch.setattr("offbeat_server.notify.channels.pagerduty._HOSTS", {"us": receiver.url})
        await send("pagerduty", {"routing_key": "R" * 32}, what)
        [request] = receiver.requests
    assert request.path == "/v2/enqueue"
    content = request.json
    assert content["routing_key"] == "R" * 32 and 1 <= len(content["dedup_key"]) <= 255
    if what.kind in ("resolved", "over"):
        assert content["event_action"] == "resolve" and "payload" not in content
        return
    assert content["event_action"] == "trigger"
    payload = content["payload"]
    assert 1 <= len(payload["summary"]) <= 1_024 and payload["source"] and payload["timestamp"] == AT
    assert payload["severity"] == ("info" if what.kind == "test" else "critical")
    assert all(isinstance(payload[name], str) for name in ("component", "group", "class") if name in payload)
    assert len(request.body) < 512 * 1024


@each_message
async def test_opsgenie(what: Message, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Receiver(Behaviour(status=202)) as receiver:
        monkeypatch.setattr("offbeat_server.notify.channels.opsgenie._HOSTS", {"eu": receiver.url})
        await send("opsgenie", {"api_key": "0123456789", "region": "eu"}, what)
        [request] = receiver.requests
    assert request.headers["Authorization"] == "GenieKey 0123456789"
    content = request.json
    if what.kind in ("resolved", "over"):
        alias = "offbeat%2Fabcd1234%2F" + ("digest%2F3" if what.kind == "over" else "default%2Fnightly-etl%2F12")
        assert request.path == f"/v2/alerts/{alias}/close?identifierType=alias"
        assert content["source"] == "Offbeat" and len(content["note"]) <= 25_000
        return
    assert request.path == "/v2/alerts"
    assert 1 <= len(content["message"]) <= 130 and 1 <= len(content["alias"]) <= 512
    assert len(content["description"]) <= 15_000 and len(content["entity"]) <= 512
    assert len(content["tags"]) <= 20 and all(len(tag) <= 50 for tag in content["tags"])
    assert sum(len(k) + len(v) for k, v in content["details"].items()) <= 8_000
    assert content["priority"] == ("P5" if what.kind == "test" else "P1")


@pytest.mark.parametrize("kind", ["pagerduty", "opsgenie"])
async def test_an_incident_is_closed_by_the_key_that_it_was_opened_with(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = {"pagerduty": {"routing_key": "R" * 32}, "opsgenie": {"api_key": "0123456789"}}[kind]
    async with Receiver(Behaviour(status=202)) as receiver:
        monkeypatch.setattr(f"offbeat_server.notify.channels.{kind}._HOSTS", {"us": receiver.url})
        for each in ("opened", "worse", "reminder", "resolved"):
            await send(kind, secret, message(each, id=len(receiver.requests)))
        keys = {r.json.get("dedup_key") or r.json.get("alias") for r in receiver.requests[:3]}
        last = receiver.requests[3]
    assert keys == {"offbeat/abcd1234/default/nightly-etl/12"}
    assert last.json.get("dedup_key") in keys or "nightly-etl%2F12/close" in last.path


SERVICES: dict[str, tuple[dict[str, Any], str]] = {
    "slack": ({}, "url"),
    "discord": ({}, "url"),
    "telegram": ({"token": "123456:ABCDEFGHIJKLMNOPQRSTUVWX", "chat": 1}, "api"),
    "msteams": ({}, "url"),
    "ntfy": ({"topic": "alerts"}, "server"),
}


@pytest.mark.parametrize("kind", SERVICES)
async def test_permanent_and_passing(kind: str) -> None:
    definition, field = SERVICES[kind]
    async with Receiver() as receiver:
        for status, permanent in ((400, True), (403, True), (404, True), (429, False), (500, False), (503, False)):
            receiver.behaviour = Behaviour(status=status, body=b"no_service")
            error = await refusal(kind, {**definition, field: receiver.url}, message())
            assert error.permanent is permanent, status
            assert "no_service" in str(error) or kind == "msteams"


async def test_apprise() -> None:
    async with Receiver() as receiver:
        url = receiver.url.replace("http://", "json://")
        await send("apprise", {"urls": [url]}, message())
        [request] = receiver.requests
        assert request.json["title"] == "DOWN: Nightly <ETL>" and "Since: " in request.json["message"]
        assert request.json["type"] == "failure"
        error = await refusal("apprise", {"urls": [url]}, message(), allow_private_destinations=False)
        assert not error.permanent and len(receiver.requests) == 1, "the guard holds for it too"
        receiver.behaviour = Behaviour(status=500)
        assert "could not deliver" in str(await refusal("apprise", {"urls": [url]}, message()))
        # Only the threads of apprise read no more than the first part of an answer.
        receiver.behaviour = Behaviour(body=b"x" * 200_000)
        assert len((await asyncio.to_thread(requests.get, receiver.url, timeout=HANG_S)).content) == 200_000
    assert (await refusal("apprise", {"urls": ["discord://x"]}, message())).permanent, "not an address of discord"


# ----------------------------------------------------------------------------------- what kills an alert without a need


@pytest.mark.parametrize(
    "link",
    ["http://monitor:8080/monitors/x", "http://localhost/monitors/x", "http://[::1]:8080/x", "http://box.local/x"],
)
@pytest.mark.parametrize("kind", ["slack", "discord", "msteams", "telegram", "ntfy"])
async def test_a_link_that_a_service_may_refuse_is_text(kind: str, link: str) -> None:
    what = message()
    rendered = what.rendered._replace(link=link)
    definitions: dict[str, Any] = {"telegram": {"token": "12345:" + "x" * 30, "chat": 1}, "ntfy": {"topic": "t"}}
    definition: dict[str, Any] = definitions.get(kind, {})
    field = {"telegram": "api", "ntfy": "server"}.get(kind, "url")
    request = await sent(kind, definition, what._replace(link=link, rendered=rendered), field)
    content = request.json
    assert "url" not in content.get("embeds", [{}])[0] and "click" not in content
    assert "actions" not in content.get("attachments", [{"content": {}}])[0]["content"]
    text = request.body.decode().replace("\\\\", "")
    assert "Open in Offbeat" not in text and link.replace("_", "") in text.replace("_", "")


@pytest.mark.parametrize("kind", ["discord", "msteams", "ntfy"])
async def test_a_link_with_a_public_name_or_an_ipv4_address_is_a_button(kind: str) -> None:
    for link in ("https://beat.example.org/x", "http://192.0.2.7:8080/x"):
        request = await sent(
            kind,
            {"topic": "t"} if kind == "ntfy" else {},
            message()._replace(link=link),
            {"ntfy": "server"}.get(kind, "url"),
        )
        content = request.json
        if kind == "discord":
            shown = content["embeds"][0]["url"]
        elif kind == "msteams":
            shown = content["attachments"][0]["content"]["actions"][0]["url"]
        else:
            shown = content["click"]
        assert shown == link


REFUSALS = [
    (
        b"Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 413 with ContextId",
        True,
    ),
    (
        b"Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429 with ContextId",
        False,
    ),
    (b'{"errcode":310000,"errmsg":"keywords not in content"}', False),
    (b'{"errcode":93000,"errmsg":"invalid webhook url"}', False),
    (b'{"ok":false,"error":"channel_not_found"}', False),
    (b'{"ok":false,"error_code":400,"description":"Bad Request: chat not found"}', True),
    (b'{"code":19001,"data":{},"msg":"param invalid: incoming webhook access token invalid"}', False),
    (b'  {"success":false,"error":"error-invalid-room"}', False),
]
ACCEPTED = [
    b"", b"1", b"ok", b"null", b"[]", b'{"errcode":0,"errmsg":"ok"}', b'{"ok":true}', b'{"code":0,"msg":"success"}',
    b'{"StatusCode":0,"code":0,"msg":"success"}', b'{"code":200,"msg":"ok"}', b'{"status":"error"}', b'{"ok":false}',
    b'{"success":false}', b'{"error":"none"}', b'{"ok":false', b'{"success":true,"message":"failed jobs: 3"}',
    b'{"errcode":"0"}', b'{"errcode":false}', b'"Webhook message delivered"', b"\xff\xfe", b"[" * 60_000,
]  # fmt: skip


@pytest.mark.parametrize(("body", "permanent"), REFUSALS)
@pytest.mark.parametrize("kind", ["webhook", "msteams"])
async def test_a_success_whose_body_says_that_it_failed_is_a_failure(kind: str, body: bytes, permanent: bool) -> None:
    async with Receiver(Behaviour(status=200, body=body)) as receiver:
        error = await refusal(kind, {"url": receiver.url}, message())
    assert error.permanent is permanent and "answered 200, but refused it" in str(error)


@pytest.mark.parametrize("body", ACCEPTED)
async def test_any_other_body_of_a_success_is_one(body: bytes) -> None:
    async with Receiver(Behaviour(status=200, body=body)) as receiver:
        await send("webhook", {"url": receiver.url}, message())


async def test_a_telegram_group_that_became_a_supergroup_gets_the_message_at_its_new_id() -> None:
    moved = b'{"ok":false,"error_code":400,"description":"upgraded","parameters":{"migrate_to_chat_id":-1001557912345}}'
    async with Receiver() as receiver:
        receiver.script.append(Behaviour(status=400, body=moved))
        definition = {"token": "12345:" + "x" * 30, "chat": -7, "topic": 3, "api": receiver.url}
        await send("telegram", definition, message())
        first, second = (r.json for r in receiver.requests)
    assert (first["chat_id"], second["chat_id"]) == (-7, -1001557912345)
    assert first | {"chat_id": 0} == second | {"chat_id": 0}
    async with Receiver(
        Behaviour(status=400, body=b'{"ok":false,"parameters":{"migrate_to_chat_id":"x"}}')
    ) as receiver:
        error = await refusal("telegram", {**definition, "api": receiver.url}, message())
        assert error.permanent and len(receiver.requests) == 1
