"""One database, one admin key, for any directories of its nodes."""

from pathlib import Path

import aiohttp

from tests.support.harness import ADMIN_KEY, Server, eventually

NO_KEY = {"OFFBEAT_ADMIN_KEY": ""}


async def allowed(server: Server, key: str) -> bool:
    """On a connection of its own, so that any worker may answer."""
    asks = {"X-Api-Key": key}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{server.url}/api/v1/monitors", headers=asks) as response,
    ):
        return response.status == 200


async def printed_line(server: Server, text: str) -> str:
    """The line with these words, once it is there."""

    async def line() -> str | None:
        return next((line for line in server.output if text in line), None)

    return str(await eventually(line))


async def test_two_nodes_and_their_workers_have_the_key_of_the_first(database_url: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    async with Server(database_url, data_dir=one, env=NO_KEY) as first:
        await printed_line(first, "admin key (shown once")
        key = (one / "admin-key").read_text().strip()
        async with Server(database_url, "--workers", "2", data_dir=two, env=NO_KEY) as second:
            assert str(one / "admin-key") in await printed_line(second, "admin key: that of this database")
            assert not (two / "admin-key").exists()
            assert await allowed(first, key) and await allowed(second, key)
            assert not await allowed(second, key[:-1])
    two.mkdir(exist_ok=True)
    (two / "admin-key").write_text("oba_of_another_installation\n")
    async with Server(database_url, data_dir=two, env=NO_KEY) as second:
        assert await allowed(second, key) and not await allowed(second, "oba_of_another_installation")
    async with Server(database_url, data_dir=one, env=NO_KEY) as first:
        assert f"$(cat {one}/admin-key)" in await printed_line(first, "X-Api-Key") and await allowed(first, key)


async def test_a_key_that_was_given_overrides_it(database_url: str, tmp_path: Path) -> None:
    async with Server(database_url, data_dir=tmp_path, env=NO_KEY):
        key = (tmp_path / "admin-key").read_text().strip()
    async with Server(database_url, data_dir=tmp_path) as server:  # with ADMIN_KEY
        assert await allowed(server, ADMIN_KEY) and not await allowed(server, key)
