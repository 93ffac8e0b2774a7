"""Monitors made and changed by pings: as many as may be in a minute, also when all of them come at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import asyncpg
import orjson
import pytest
import pytest_asyncio

from offbeat_server.db.pool import open_pool
from offbeat_server.db.repositories.key_index_rows import KeyIndexRows
from offbeat_server.ingest import provisioning
from offbeat_server.ingest.key_index import KeyIndex
from offbeat_server.ingest.protocols.base import SlugAddress
from offbeat_server.ingest.provisioning import CREATED_PER_MINUTE_MAX, Provisioning
from tests.support.harness import HANG_S, eventually
from tests.support.servers.ingest_server import HTTP_SERVERS, Served, ask, get, serving


class Installation(NamedTuple):
    pool: asyncpg.Pool
    key_index: KeyIndex
    ping_key: str

    def slug(self, slug: str, **declared: object) -> SlugAddress:
        return SlugAddress(self.ping_key, slug, create=True, definition=declared or None)

    async def monitors(self) -> list[str]:
        return [row["slug"] for row in await self.pool.fetch("select slug from monitors order by slug")]


@pytest_asyncio.fixture
async def installation(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    monkeypatch.setattr("offbeat_server.ingest.key_index.REFRESH_WAIT_S", HANG_S)  # their duration is not tested here
    monkeypatch.setattr("offbeat_server.db.repositories.key_index_rows.ACQUIRE_TIMEOUT_S", HANG_S)
    pool = await open_pool(database_url)
    key_index = KeyIndex(KeyIndexRows(pool))
    await key_index.start()
    yield Installation(pool, key_index, await pool.fetchval("select ping_key from projects"))
    await key_index.stop()
    pool.terminate()


async def test_the_limit_of_new_monitors_holds_for_simultaneous_pings(installation: Installation) -> None:
    make = Provisioning(installation.pool, installation.key_index, allowed=True)
    count = CREATED_PER_MINUTE_MAX * 3 // 2
    outcomes = await asyncio.gather(*(make(installation.slug(f"job-{number}"), None) for number in range(count)))
    assert Counter(outcome.kind for outcome in outcomes) == {
        "created": CREATED_PER_MINUTE_MAX,
        "full": count - CREATED_PER_MINUTE_MAX,
    }
    assert len(await installation.monitors()) == CREATED_PER_MINUTE_MAX


async def test_simultaneous_pings_for_the_same_new_monitor_count_once(
    installation: Installation,
) -> None:
    make = Provisioning(installation.pool, installation.key_index, allowed=True)
    outcomes = await asyncio.gather(*(make(installation.slug("job"), None) for _ in range(CREATED_PER_MINUTE_MAX * 2)))
    kinds = Counter(outcome.kind for outcome in outcomes)
    assert (kinds["created"], kinds["full"]) == (1, 0)
    assert await installation.monitors() == ["job"]


async def test_clients_that_declare_now_this_and_now_that_have_an_end(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioning, "CHANGED_PER_MINUTE_MAX", 4)
    make = Provisioning(installation.pool, installation.key_index, allowed=True)
    assert (await make(installation.slug("job", every=60), "sentry")).kind == "created"
    for hours in range(1, 10):
        assert (await make(installation.slug("job", every=3_600 * hours), "sentry")).kind == "ok"
    assert await installation.pool.fetchval("select definition->>'every' from monitors") == "4h"
    assert await installation.pool.fetchval("select count(*) from changes") == 5


async def definition(installation: Installation, slug: str) -> dict[str, Any]:
    stored: dict[str, Any] = await installation.pool.fetchval("select definition from monitors where slug = $1", slug)
    return stored


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        ("healthchecks", {"every": "1d", "grace": "1h", "max_runtime": "1h"}),
        ("cronitor", {"every": "1d", "grace": "1h"}),
        (None, {"every": "1d", "grace": "1h"}),
    ],
)
async def test_a_monitor_that_a_ping_makes_is_watched(
    installation: Installation, dialect: str | None, expected: dict[str, Any]
) -> None:
    make = Provisioning(installation.pool, installation.key_index, allowed=True)
    assert (await make(installation.slug("job"), dialect)).kind == "created"
    assert await definition(installation, "job") == expected


async def test_an_environment_has_the_schedule_of_its_job_and_no_default(installation: Installation) -> None:
    make = Provisioning(installation.pool, installation.key_index, allowed=True)
    await make(installation.slug("job", cron="0 3 * * *"), "sentry")
    like = SlugAddress(installation.ping_key, "job.staging", create=True, like="job")
    assert (await make(like, "cronitor")).kind == "created"
    assert (await definition(installation, "job.staging"))["cron"] == "0 3 * * *"
    assert "every" not in await definition(installation, "job.staging")


async def test_a_project_of_many_monitors_gets_no_more_by_pings(installation: Installation) -> None:
    make = Provisioning(installation.pool, installation.key_index, allowed=True, monitors_max=3)
    outcomes = await asyncio.gather(*(make(installation.slug(f"job-{n}"), "healthchecks") for n in range(10)))
    assert Counter(each.kind for each in outcomes) == {"created": 3, "crowded": 7}
    created = next(f"job-{n}" for n, outcome in enumerate(outcomes) if outcome.kind == "created")
    assert (await make(installation.slug(created, every=60), "sentry")).kind == "ok", (
        "those that exist are changed still"
    )
    none = Provisioning(installation.pool, installation.key_index, allowed=True, monitors_max=0)
    assert (await none(installation.slug("other"), "healthchecks")).kind == "crowded"


# ------------------------------------------------------------------- a ping that comes while its monitor is being made


def envelope(ping_key: str, check_in: dict[str, Any]) -> bytes:
    payload = orjson.dumps({"check_in_id": "a" * 32, "monitor_slug": "new", **check_in})
    body = (
        orjson.dumps({"dsn": f"http://{ping_key}@x/1"}) + b"\n" + orjson.dumps({"type": "check_in"}) + b"\n" + payload
    )
    head = f"POST /api/1/envelope/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


CONFIG = {"schedule": {"type": "crontab", "value": "0 3 * * *"}}


def pair(kind: str, ping_key: str) -> tuple[bytes, bytes]:
    """The request that makes the monitor, and the one that comes right behind it without saying so."""
    if kind == "sentry":
        first = envelope(ping_key, {"status": "in_progress", "monitor_config": CONFIG})
        return first, envelope(ping_key, {"status": "ok"})
    if kind == "sentry cron address":
        first = envelope(ping_key, {"status": "in_progress", "monitor_config": CONFIG})
        return first, get(f"/api/1/cron/new/{ping_key}/?status=ok&check_in_id={'a' * 32}").encode()
    return get(f"/ping/{ping_key}/new/start?create=1").encode(), get(f"/ping/{ping_key}/new").encode()


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
@pytest.mark.parametrize("delay_s", [0.0, 0.02])
@pytest.mark.parametrize("kind", ["sentry", "sentry cron address", "healthchecks"])
async def test_a_ping_waits_for_its_monitor(database_url: str, kind: str, http_server: str, delay_s: float) -> None:
    async with serving(
        database_url, http_server=http_server, provisioning=lambda pool, key_index: Provisioning(pool, key_index, True)
    ) as served:
        first, second = pair(kind, await served.pool.fetchval("select ping_key from projects"))

        async def later() -> int:
            await asyncio.sleep(delay_s)
            return (await ask(served, second)).status

        statuses = await asyncio.gather(ask(served, first), later())
        assert statuses[0].status in (200, 201) and statuses[1] in (200, 202)
        assert await served.rows() == ["start", "success"], "in the order in which they were sent"


@pytest.mark.parametrize("kind", ["sentry", "healthchecks"])
async def test_a_ping_waits_for_a_monitor_that_another_node_makes(database_url: str, kind: str) -> None:
    """Also if it arrives a little before the one that makes it."""

    def provisioning(pool: asyncpg.Pool, key_index: KeyIndex) -> Provisioning:
        return Provisioning(pool, key_index, True)

    async with AsyncExitStack() as nodes:
        a: Served = await nodes.enter_async_context(serving(database_url, provisioning=provisioning))
        b: Served = await nodes.enter_async_context(serving(database_url, provisioning=provisioning))
        first, second = pair(kind, await a.pool.fetchval("select ping_key from projects"))
        waiting = asyncio.create_task(ask(b, second))
        while b.key_index.refreshes < 2:  # it is there, and was not found
            await asyncio.sleep(0.001)
        assert (await ask(a, first)).status in (200, 201)
        assert (await waiting).status in (200, 202)
        assert sorted(await a.rows()) == ["start", "success"]


async def test_a_ping_of_a_monitor_that_is_not_created_is_refused_soon(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offbeat_server.ingest.pipeline.WAITING_MAX", 2)
    async with serving(
        database_url, provisioning=lambda pool, key_index: Provisioning(pool, key_index, True)
    ) as served:
        ping_key = await served.pool.fetchval("select ping_key from projects")
        assert (await ask(served, get(f"/ping/{ping_key}/none"))).status == 404
        monkeypatch.setattr("offbeat_server.ingest.pipeline.MADE_WITHIN_S", 2 * HANG_S)
        asking = [asyncio.create_task(ask(served, get(f"/ping/{ping_key}/none"))) for _ in range(20)]

        async def all_but_two() -> bool:
            return sum(task.done() for task in asking) == 18

        await eventually(all_but_two)
        assert {task.result().status for task in asking if task.done()} == {404}
        assert (await ask(served, get("/ping/nobody-has-this-key/none"))).status == 404
        assert (await ask(served, get(f"/ping/{ping_key}/none?create=1"))).status == 201
        assert sorted([(await task).status for task in asking]) == [200] * 2 + [404] * 18


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
async def test_an_unusable_config_is_answered_and_logged_with_its_field(
    database_url: str, http_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"schedule": {"type": "crontab", "value": "0 5 * * *"}, "timezone": "Mars/Base"}
    problem = "monitor_config.timezone: no such time zone: 'Mars/Base'; use a name such as Europe/Berlin"
    async with serving(
        database_url, http_server=http_server, provisioning=lambda pool, key_index: Provisioning(pool, key_index, True)
    ) as served:
        ping_key = await served.pool.fetchval("select ping_key from projects")
        refused = await ask(served, envelope(ping_key, {"status": "ok", "monitor_config": wrong}))
        assert refused.status == 404 and orjson.loads(refused.body) == {"detail": problem}
        assert (await ask(served, envelope(ping_key, {"status": "ok", "monitor_config": CONFIG}))).status == 200
        kept = await ask(served, envelope(ping_key, {"status": "ok", "monitor_config": wrong}))
        assert kept.status == 200 and orjson.loads(kept.body) == {"warning": problem}
        assert kept.headers["offbeat-ignored"] == "monitor_config"
        assert (
            await served.pool.fetchval("select definition ->> 'cron' from monitors where slug = 'new'") == "0 3 * * *"
        )
        assert await served.rows("signal, message") == [
            ("success", None),
            ("success", f"{problem} (the monitor was not changed)"),
        ]
    assert capsys.readouterr().out.count("provisioning.definition_rejected") == 2, "once before it was made, once after"
