"""Outages that can no longer move a deadline leave memory, and no deadline notices."""

import random
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.engine.schedule.outage_intervals import RETRY_MAX, OutageIntervals
from tests.model.test_model import SIZES, Choices, Driver, Event, draw_events, outcome_of_engine
from tests.support.engine import Scene
from tests.support.harness import eventually
from tests.support.servers.scheduler_node import count_of, running, true

DAY: Micros = 86_400 * SECOND


class Forgetful(Driver):
    """Forgets outages whenever something has happened."""

    def __init__(self, events: list[Event], c: Choices) -> None:
        super().__init__(events, c)
        self.forgotten = 0

    def _hand_over(self, event: Event) -> None:
        super()._hand_over(event)
        engine = self.engine
        known = len(engine.state.outages.intervals)
        starts = engine.window_starts(0)
        engine.forget_outages(min([engine.now - RETRY_MAX - SECOND, *starts]))
        self.forgotten += known - len(engine.state.outages.intervals)


@pytest.mark.slow
def test_what_is_decided_does_not_depend_on_outages_that_are_forgotten() -> None:
    """Edits and resumes are left out: they may reach back further, which is why `--keep-days` of outages stay."""
    forgotten = 0

    @settings(
        max_examples=1000,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(st.one_of(*(st.binary(min_size=size, max_size=size) for size in SIZES)))
    def agree(data: bytes) -> None:
        nonlocal forgotten
        drawn = draw_events(Choices(data))
        events = [event for event in drawn if event[0] != "crash" and event[0] != "restart"]
        events = [event for event in events if event[0] != "change" or event[3] not in ("edit", "resume")]
        remembering, forgetful = Driver([*events], Choices(data[::-1])), Forgetful([*events], Choices(data[::-1]))
        remembering.run()
        forgetful.run()
        assert outcome_of_engine(forgetful) == outcome_of_engine(remembering)
        forgotten += forgetful.forgotten

    agree()
    assert forgotten > 1000


def test_no_window_behind_the_forgotten_outages_is_another_one() -> None:
    chance = random.Random(7)
    for _ in range(300):
        complete, short = OutageIntervals(), OutageIntervals()
        for _ in range(chance.randrange(1, 30)):
            start = chance.randrange(1_000) * SECOND // 2
            end = start + chance.randrange(1, 40) * SECOND // 2
            complete.add(start, end)
            short.add(start, end)
        before = chance.randrange(600) * SECOND // 2
        short.forget_before(before)
        assert all(end >= before for _, end in short.intervals[1:])
        for _ in range(50):
            start = before + chance.randrange(600) * SECOND // 2
            end = start + chance.randrange(200) * SECOND // 2
            for method in ("shift", "within", "longest", "last_outage"):
                assert getattr(short, method)(start, end) == getattr(complete, method)(start, end)
            pinged = chance.randrange(1_200) * SECOND // 2
            again = max(pinged, before + RETRY_MAX) + chance.randrange(1, 80) * SECOND // 2
            assert short.may_be_retry(pinged, again) == complete.may_be_retry(pinged, again)


def test_a_year_of_outages_stays_bounded() -> None:
    scene = Scene()
    scene.monitor("heartbeat", every="1h", grace="30m")
    scene.monitor("weekly", cron="0 2 * * 1", grace="2d")
    scene.monitor("slow", max_runtime="20d", quiet_for="15d")
    scene.monitor("dead", max_runtime="1h")
    scene.monitor("fleet", members={"every": "1h", "grace": "30m", "min_alive": 1})
    scene.ping(0, "start", slug="dead", run="died")  # stays open for ever
    known: list[int] = []
    for day in range(365):
        at = day * 86_400
        if day % 15 == 0:
            scene.ping(at + 1, "start", slug="slow", run=f"r{day}")
        if day % 15 == 14:
            scene.ping(at + 1, slug="slow", run=f"r{day - 14}")
        if day % 7 == 0:
            scene.ping(at + 2 * 3_600, slug="weekly")
        for hour in range(24):
            scene.ping(at + hour * 3_600 + 60, slug="heartbeat")
            scene.ping(at + hour * 3_600 + 61, slug="fleet", task="w1")
        scene.outage(at + 1_000, at + 1_010)
        scene.tick(at + 86_399)
        now = scene.engine.now
        scene.engine.forget_outages(min([now - DAY, *scene.engine.window_starts(now - DAY)]))
        known.append(len(scene.engine.state.outages.intervals))
    assert max(known) <= 16, "as many as the longest open run has days"
    assert [scene.status(slug) for slug in ("heartbeat", "weekly", "dead")] == ["up", "up", "down"]


def _forget(scene: Scene, active_since: float | str) -> list[tuple[Any, Any]]:
    starts = scene.engine.window_starts(scene.at(active_since))
    scene.engine.forget_outages(min([scene.engine.now - DAY, *starts]))
    return [(scene.seconds(start), scene.seconds(end)) for start, end in scene.engine.state.outages.intervals]


def _watched(scene: Scene, kind: str) -> None:
    """One monitor with a deadline on day 40, by a window that begins on day 0."""
    if kind == "schedule":
        scene.monitor(cron="0 0 25 * *", grace="20d")
        scene.ping(0)  # of January 25, too early for it: the window begins 15.5 days before
    elif kind == "every":
        scene.monitor(every="30d", grace="10d")
        scene.ping(0)
    elif kind == "first ping":
        scene.monitor(every="1d", first_within="40d")
    elif kind == "run":
        scene.monitor(max_runtime="40d")
        scene.ping(0, "start", run="r")
    elif kind == "stage":
        scene.monitor(stages=[{"name": "a", "within": "40d"}])
        scene.ping(0, "start", run="r")
    elif kind == "tasks":
        scene.monitor(tasks={"expected": 2, "within": "40d"})
        scene.ping(0, "start", run="r")
        scene.ping(1, run="r", task="a")
    elif kind == "member":
        scene.monitor(members={"every": "30d", "grace": "10d", "min_alive": 1, "forget_after": "90d"})
        scene.ping(0, task="a")
    elif kind == "follower":
        scene.monitor("before")
        scene.monitor(after={"monitor": "before", "within": "40d"})
        scene.ping(0)
        scene.ping(0, slug="before")
    elif kind == "total":
        scene.monitor(tasks={"within": "40d"})
        scene.ping(0, "start", run="r")


FROM_THE_BEGINNING = ("first ping", "run", "stage", "tasks", "total", "member", "follower")


# Where in the window the outage lies; the one of a schedule begins with its grace.
@pytest.mark.parametrize(
    ("kind", "outage"),
    [("schedule", "6d"), ("every", "22d"), *((kind, "1d") for kind in FROM_THE_BEGINNING)],
)
def test_an_outage_stays_as_long_as_it_moves_a_deadline(kind: str, outage: str) -> None:
    decided = []
    for forgetful in (False, True):
        scene = Scene()
        _watched(scene, kind)
        scene.tick(outage)
        scene.outage(outage, f"{outage}1h")
        left = []
        for day in range(24, 141):
            scene.tick(f"{day}d")
            if kind == "total" and day == 35:
                scene.ping("35d1s", "progress", total=2, run="r")
            if forgetful:
                left = _forget(scene, f"{day + 1}d")
                assert left or day > 40, "its deadline has not come yet"
        assert not left or not forgetful
        decided.append([(d.status, d.since, d.effects) for d in scene.decisions])
    assert decided[0] == decided[1]


def test_a_run_that_pings_keeps_its_outages_though_no_limit_watches_it_now() -> None:
    """Its limit may be removed and added again."""
    scene = Scene()
    scene.monitor(max_runtime="60d")
    scene.ping(0, "start", run="r")
    scene.outage("1d", "2d")
    scene.tick("40d")
    assert len(_forget(scene, "41d")) == 1
    scene.monitor(when="40d", at_most={"count": 1, "per": "1h"})
    scene.ping("41d", "log", run="r")
    assert len(_forget(scene, "15d")) == 1
    scene.monitor(when="42d", max_runtime="60d")
    scene.tick("60d23h")
    assert scene.runs()[1].verdict is None
    scene.tick("61d")  # 60 days, and the day that was an outage
    assert scene.runs()[1].verdict == "hung"


def test_a_ping_between_two_instants_does_no_harm() -> None:
    scene = Scene()
    scene.monitor(stall_for="9d", max_runtime="30d")
    scene.ping(0, "start", run="r")
    for stage in "ab":
        scene.ping("1d", "progress", run="r", stage=stage, task="1", done=1)
    starts = scene.engine.window_starts(0)
    count = 0
    for count, _ in enumerate(starts, 1):
        scene.ping("2d", "progress", run="r", stage=f"c{count}", task="1", done=1)
    assert count > 2


def test_a_run_that_died_long_ago_keeps_none() -> None:
    scene = Scene()
    scene.monitor(max_runtime="1h")
    scene.ping(0, "start", run="r")
    scene.ping("1d", "log", run="r")
    scene.outage("10d", "11d")
    scene.tick("15d")
    assert len(_forget(scene, "1d")) == 1, "an edit may still give it a longer limit"
    assert not _forget(scene, "2d")


async def test_the_scheduler_forgets_outages_in_memory_and_in_postgres(
    database: asyncpg.Connection, database_url: str
) -> None:
    """Once a checkpoint has passed the instant at which it asked what is needed."""
    for days in (50, 40, 35, 1):
        await database.execute(
            """insert into deaf (started_at, ended_at, reason, decided_at)
               values (log_time() - $1::interval - interval '60 s', log_time() - $1::interval, 'crash', log_time())""",
            timedelta(days=days),
        )
    async with running(database_url) as node:
        scheduler = node.scheduler

        async def left() -> tuple[int, int]:
            known = len(scheduler.engine.state.outages.intervals)
            return known, await count_of(node.pool, "deaf")

        async def one_round() -> None:
            """As if a checkpoint had just been written, which is not newer than what is evaluated."""
            scheduler.checkpointer.at = scheduler.engine.now
            asked_from = scheduler.engine.now
            await eventually(lambda: true(scheduler.engine.now > asked_from))
            await scheduler.retention._round()

        await eventually(lambda: true(scheduler.evaluating))
        monitor_id = await node.monitor(every="80d", grace="18d")  # its window may reach back twice its grace
        await node.ping(monitor_id)
        await node.is_status(monitor_id, "up")
        await one_round()
        assert await left() == (4, 4)
        await scheduler.retention._round()
        assert await left() == (4, 4), "no checkpoint was written since"
        await one_round()
        assert await left() == (2, 2)
        await node.monitor(every="80d", grace="1d")
        await eventually(lambda: true(scheduler.engine.monitors[monitor_id].definition.grace == DAY))
        await one_round()
        await one_round()
        assert await left() == (1, 1), "--keep-days of outages stay in any case"
