"""The orderly stop: in the reverse order of the start, under one bound, also if a part hangs; each death is noticed."""

import asyncio

import structlog.testing

from offbeat_server.common.service import Service, Stack
from tests.support.harness import HANG_S

BOUND_S = 1.0


class Part(Service):
    """Writes down when it is stopped. `how`: at once, in half of the bound, never, or with an error."""

    def __init__(self, name: str, events: list[str], how: str = "well") -> None:
        super().__init__()
        self.name, self._events, self._how = name, events, how

    async def start(self) -> None:
        self._events.append(f"+{self.name}")
        self.spawn(self._live(), "lives")

    async def stop(self) -> None:
        self._events.append(f"-{self.name}")
        if self._how == "hangs":
            await asyncio.Event().wait()
        if self._how == "is slow":
            await asyncio.sleep(BOUND_S / 2)
        if self._how == "fails":
            raise RuntimeError("broken")
        await super().stop()

    async def _live(self) -> None:
        await asyncio.Event().wait()


async def test_what_was_started_last_is_stopped_first() -> None:
    events: list[str] = []
    stack = Stack(events.append)
    for name in "abc":
        await stack.start(Part(name, events))
    await stack.stop(5)
    assert events == ["+a", "+b", "+c", "-c", "-b", "-a"]


async def test_one_that_hangs_or_fails_keeps_no_other_from_its_stop_and_all_have_one_bound() -> None:
    events: list[str] = []
    stack = Stack(events.append)
    parts = [Part("a", events), Part("b", events, "is slow"), Part("c", events, "fails"), Part("d", events, "hangs")]
    for part in parts:
        await stack.start(part)
    with structlog.testing.capture_logs() as logs:
        await stack.stop(BOUND_S)
    assert events[4:] == ["-d", "-c", "-b", "-a"]
    assert [(line["event"], line["service"]) for line in logs] == [
        ("service.stop_timed_out", "d"),
        ("service.stop_failed", "c"),
        ("service.stop_timed_out", "b"),  # the bound is of all together, and "d" has used it up
    ]
    assert not parts[0].tasks and not parts[1].tasks and not parts[3].tasks


async def test_one_that_goes_before_its_turn_goes_once() -> None:
    events: list[str] = []
    stack = Stack(events.append)
    parts = {name: Part(name, events) for name in "abc"}
    for part in parts.values():
        await stack.start(part)
    await stack.stop_early(parts["b"], 5)
    await stack.stop_early(Part("never started", events), 5)
    await stack.stop(5)
    assert events[3:] == ["-b", "-c", "-a"]


async def test_the_death_of_a_task_is_reported() -> None:
    death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stack = Stack(death.set_result)
    part = Part("a", [])
    await stack.start(part)

    async def die() -> None:
        raise RuntimeError("broken")

    part.spawn(die(), "brief")
    assert "brief" in await asyncio.wait_for(death, HANG_S)
    await stack.stop(5)
