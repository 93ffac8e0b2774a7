"""A public value is computed once for all requests."""

import asyncio

import pytest

from offbeat_server.web.framework import ttl_cache
from offbeat_server.web.framework.ttl_cache import TtlCache


async def test_one_finds_out_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ttl_cache, "FRESH_S", 600.0)
    answers, calls, may_end = TtlCache[int](), [0], asyncio.Event()

    async def find_out() -> int:
        calls[0] += 1
        await may_end.wait()
        return calls[0]

    waiting = [asyncio.create_task(answers.get("a", find_out)) for _ in range(20)]
    other = asyncio.create_task(answers.get("b", find_out))
    while calls[0] < 2:
        await asyncio.sleep(0)
    may_end.set()
    assert set(await asyncio.gather(*waiting)) == {await other} == {2}
    assert await answers.get("a", find_out) == 2 and calls[0] == 2
    monkeypatch.setattr(ttl_cache, "FRESH_S", -1.0)
    assert await answers.get("a", find_out) == 3, "it has grown old"


async def test_a_failure_is_not_kept_and_neither_is_everything() -> None:
    answers = TtlCache[int]()

    async def fail() -> int:
        raise ValueError

    async def succeed() -> int:
        return 1

    for key in range(2 * ttl_cache.KEPT_MAX):
        with pytest.raises(ValueError):
            await answers.get(key, fail)
    assert await answers.get(2 * ttl_cache.KEPT_MAX - 1, succeed) == 1
    assert len(answers._kept) == ttl_cache.KEPT_MAX
