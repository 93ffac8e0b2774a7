"""Alerts arrive: once, in order, whatever the receiver does."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.harness import Behaviour, Receiver, eventually
from tests.outbox_scene import Scene, scene


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[Scene]:
    async with scene(database_url) as made:
        yield made


async def test_an_alert_is_delivered_and_settled(world: Scene) -> None:
    async with Receiver() as receiver, world.courier():
        channel = await world.channel("hook", "webhook", url=f"{receiver.url}/hook")
        id = await world.alert(channel)
        request = await receiver.wait_for(lambda r: True)
        await world.settled()
        row = await world.row(id)
    assert request.json["type"] == "incident.opened"
    assert request.json["data"]["monitor"] == "job-1"
    assert request.headers["webhook-id"].startswith("alert_") and request.headers["webhook-id"].endswith(f"_{id}")
    assert (row["state"], row["attempts"], row["claimed_by"]) == ("delivered", 1, None)
    assert len(receiver.requests) == 1
    assert world.counted == {("webhook", "delivered"): 1}
