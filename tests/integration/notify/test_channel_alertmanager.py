"""Real Alertmanagers hold what is open here, also after one of them was away or lost its memory."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from offbeat_server.db.repositories.outbox import Outbox
from offbeat_server.notify.channels.alertmanager import Alertmanager
from offbeat_server.notify.channels.registry import read_channel
from tests.support.channels import digest, message, refusal, send, transport
from tests.support.harness import HANG_S, Behaviour, Receiver, eventually, needs
from tests.support.outbox import Scene

CONFIG = "route:\n  receiver: nobody\nreceivers:\n  - name: nobody\n"


class RealAlertmanager:
    """Debian's, on a port of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """With an empty memory: alerts are not among what it stores."""
        self._directory.mkdir(exist_ok=True)
        config = self._directory / "alertmanager.yml"
        config.write_text(CONFIG)
        self._process = await asyncio.create_subprocess_exec(
            needs("prometheus-alertmanager"),
            f"--config.file={config}",
            f"--storage.path={self._directory}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await eventually(self._ready)

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def alerts(self) -> list[dict[str, Any]]:
        """The alerts that are active now, by monitor."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/api/v2/alerts?active=true") as answer:
            listed: list[dict[str, Any]] = await answer.json()
        return sorted(listed, key=lambda alert: alert["labels"].get("monitor", ""))

    async def _ready(self) -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self.url}/-/ready") as answer:
                return answer.status == 200
        except OSError:
            return False


@pytest.fixture
async def peers(tmp_path: Path) -> AsyncIterator[list[RealAlertmanager]]:
    started = [RealAlertmanager(tmp_path / name) for name in ("one", "two")]
    async with contextlib.AsyncExitStack() as stack:
        for each in started:
            stack.push_async_callback(each.stop)
        await asyncio.gather(*(each.start() for each in started))
        yield started


async def test_every_peer_holds_what_is_open_until_it_is_resolved(world: Scene, peers: list[RealAlertmanager]) -> None:
    one, two = peers
    channel = await world.channel(
        "am", "alertmanager", urls=[one.url, two.url], labels={"team": "data"}, severity="page"
    )
    async with world.dispatcher(start=False) as dispatcher:
        dispatcher.periodic.firing_every_s = 0.3
        await dispatcher.start()
        await world.incidents(1)
        await world.alert(channel, 1)
        for peer in peers:
            [alert] = await eventually(peer.alerts)
            assert alert["labels"] == {
                "alertname": "MonitorDown",
                "monitor": "job-1",
                "project": "default",
                "severity": "page",
                "team": "data",
            }
            assert alert["startsAt"] == "2026-11-24T03:10:00.000Z"
            assert alert["annotations"]["summary"] == "DOWN: Job 1"
            assert alert["generatorURL"] == "https://beat.example.org/monitors/job-1"
        # One forgets everything, and gets the alerts again, although the outbox is empty.
        await two.stop()
        await two.start()
        await eventually(two.alerts)
        # One is out of reach while the incident resolves, and learns of it afterwards.
        definition = {"urls": [one.url], "labels": {"team": "data"}, "severity": "page"}
        await world.pool.execute("update channels set definition = $1::jsonb where slug = 'am'", definition)
        await world.pool.execute("update incidents set resolved_at = now()")
        await world.alert(channel, 1, kind="resolved", facts={"resolved_at": "2026-11-24T04:00:00Z"})
        await eventually(lambda: silent(one))
        assert await world.settled() == {"delivered": 2}
        assert len(await two.alerts()) == 1
        definition["urls"] = [one.url, two.url]
        await world.pool.execute("update channels set definition = $1::jsonb where slug = 'am'", definition)
        await eventually(lambda: silent(two))


async def silent(peer: RealAlertmanager) -> bool:
    return not await peer.alerts()


async def test_what_was_never_tried_is_not_repeated(world: Scene) -> None:
    # Its resolve might come first. Both would cancel out, and what a repetition has said would stay.
    async with Receiver() as receiver:
        channel = await world.channel("am", "alertmanager", urls=[receiver.url])
        await world.incidents(1)
        id = await world.alert(channel, 1)
        outbox = Outbox(world.pool, "here", "node")
        for changes, repeated in (
            ("attempts = 0", False),
            ("attempts = 1, claimed_by = 'somebody'", False),  # who may still give it back
            ("claimed_by = null", True),
            ("attempts = 2, claimed_by = 'somebody'", True),
            ("state = 'delivered', settled_at = now()", True),
        ):
            await world.pool.execute(f"update alerts set {changes} where id = $1", id)
            assert bool(await outbox.firing(channel, 0, 10)) is repeated, changes


async def test_however_many_have_just_resolved_each_is_repeated(world: Scene) -> None:
    async with Receiver() as receiver:
        channel = await world.channel("am", "alertmanager", urls=[receiver.url])
        await world.alerts(channel, 500, kind="resolved")
        await world.pool.execute("update alerts set state = 'delivered', settled_at = now()")
        async with world.dispatcher():
            requests = await receiver.wait_count(3)
        repeated = {alert["labels"]["monitor"] for request in requests for alert in orjson.loads(request.body)}
        assert repeated == {f"job-{n}" for n in range(1, 501)}


async def test_neither_a_poisoned_alert_nor_a_peer_that_fails_keeps_the_others_from_being_repeated(
    world: Scene,
) -> None:
    async with Receiver() as good, Receiver(Behaviour(status=500)) as bad, Receiver(Behaviour(status=400)) as picky:
        channel = await world.channel("am", "alertmanager", urls=[bad.url, picky.url, good.url])
        await world.alerts(channel, 500)
        await world.alert(channel, 501, facts={"tags": 7})
        await world.pool.execute("update alerts set state = 'delivered', settled_at = now()")
        await world.incidents(*range(1, 502))
        async with world.dispatcher():
            requests = await good.wait_count(3)
        repeated = {alert["labels"]["monitor"] for request in requests for alert in orjson.loads(request.body)}
        assert repeated == {f"job-{n}" for n in range(1, 501)}
        assert (len(bad.requests), len(picky.requests)) == (1, 3), "it is sent again a minute later"


async def test_a_peer_that_hangs_holds_nothing_up() -> None:
    async with Receiver(Behaviour(hang=True)) as hanging, Receiver() as good, transport() as out:
        out.send_timeout_s = 2 * HANG_S  # does not end its request before the test fails
        channel = read_channel("alertmanager", {"urls": [hanging.url, good.url]})
        async with asyncio.timeout(HANG_S):
            await channel.send(message(), channel.compose(message()), out)
        assert len(good.requests) == len(hanging.requests) == 1


async def test_a_storm_arrives_whole_there(world: Scene, peers: list[RealAlertmanager]) -> None:
    one, _ = peers
    channel = await world.channel("am", "alertmanager", urls=[one.url])
    await world.alerts(channel, 1_200)
    async with world.dispatcher():
        assert await world.settled() == {"delivered": 1_200}
        assert len(await one.alerts()) == 1_200


async def test_an_incident_that_follows_another_at_once_is_not_ended_by_its_end(
    world: Scene, peers: list[RealAlertmanager]
) -> None:
    one, _ = peers
    channel = await world.channel("am", "alertmanager", urls=[one.url])
    await world.alert(channel, 1, state="delivered", attempts=1)
    await world.alert(channel, 1, kind="resolved")
    await world.alert(channel, 1, incident=2, facts={"opened_at": "2026-11-24T05:00:00Z"})
    await world.alerts(channel, 5, first=2)
    async with world.dispatcher():
        assert await world.settled() == {"delivered": 8}
    assert await world.pool.fetchval("select alerts from digests") == 7
    assert [alert["labels"]["monitor"] for alert in await one.alerts()] == [f"job-{n}" for n in range(1, 7)]


async def test_one_peer_is_enough_and_none_is_a_failure() -> None:
    async with Receiver() as good, Receiver(Behaviour(status=500)) as bad, Receiver(Behaviour(status=400)) as wrong:
        await send("alertmanager", {"urls": [bad.url, good.url]}, message())
        assert len(good.requests) == len(bad.requests) == 1
        error = await refusal("alertmanager", {"urls": [bad.url, wrong.url]}, message())
        assert not error.permanent
        assert (await refusal("alertmanager", {"urls": [wrong.url]}, message())).permanent


async def test_credentials_and_paths() -> None:
    async with Receiver() as receiver:
        await send("alertmanager", {"urls": [f"{receiver.url}/am/"], "token": "abc"}, message())
        await send("alertmanager", {"urls": [receiver.url], "username": "bob", "password": "pw"}, message())
        first, second = receiver.requests
    assert first.path == "/am/api/v2/alerts" and first.headers["Authorization"] == "Bearer abc"
    assert second.path == "/api/v2/alerts" and second.headers["Authorization"] == "Basic Ym9iOnB3"


def test_the_identity_does_not_change_while_an_incident_is_open() -> None:
    channel = read_channel("alertmanager", {"urls": ["http://am"]})
    assert isinstance(channel, Alertmanager)
    opened = channel.alert(message())
    for other in (message("worse", reason="x", run="43", tags=[]), message("reminder"), message("resolved")):
        again = channel.alert(other, ends_at="2026-11-24T09:00:00Z")
        assert again["labels"] == opened["labels"] and again["startsAt"] == opened["startsAt"]
    assert "endsAt" not in opened
    assert channel.alert(message("resolved"), "2026-11-24T09:00:00Z")["endsAt"] == "2026-11-24T03:05:00Z"
    members = (message(id=1), message("resolved", id=2))
    body = orjson.loads(channel.compose(digest()._replace(members=members)))
    assert [("endsAt" in each) for each in body] == [False, True]
