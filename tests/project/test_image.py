"""The container image: the steps of deploy/Dockerfile build it from a clean checkout, and it runs as its files say."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import aiohttp
import pytest

from tests.support.harness import ADMIN_KEY, ROOT, eventually, free_port
from tests.support.image import Image
from tests.support.postgres.system_postgres import SystemPostgres

DOCKERFILE = ROOT / "deploy" / "Dockerfile"


def clean_checkout(to: Path) -> Path:
    """A copy of what git knows."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name, follow_symlinks=False)
    return to


@pytest.mark.long
@pytest.mark.parametrize("extras", ["", "embedded"])
async def test_the_image_builds_and_serves(tmp_path: Path, extras: str) -> None:
    port = free_port()
    context = await asyncio.to_thread(clean_checkout, tmp_path)
    async with SystemPostgres() as postgres, Image(DOCKERFILE, context, {"EXTRAS": extras}) as image:
        await postgres.execute("create role offbeat login password 'secret'")
        await postgres.execute("create database offbeat owner offbeat")
        url = f"postgresql://offbeat:secret@127.0.0.1:{postgres.port}/offbeat"
        env = {
            **({} if extras else {"OFFBEAT_DATABASE_URL": url}),
            "OFFBEAT_ADMIN_KEY": ADMIN_KEY,
            "OFFBEAT_HOST": "127.0.0.1",  # a test listens on no other address
            "OFFBEAT_PORT": str(port),
        }
        started = image.inside(*image.entrypoint, *image.command, env=env)
        server = await asyncio.create_subprocess_exec(*started, stdout=asyncio.subprocess.DEVNULL)
        try:

            async def is_healthy() -> bool:
                assert server.returncode is None, f"the server ended with exit code {server.returncode}"
                check = await asyncio.create_subprocess_exec(
                    *image.inside(*image.healthcheck, env=env), stderr=asyncio.subprocess.DEVNULL
                )
                return await check.wait() == 0

            await eventually(is_healthy, every_s=0.5)
            assert os.stat(f"/proc/{server.pid}").st_uid == 10001
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                key = {"X-Api-Key": ADMIN_KEY}
                async with session.put("/api/v1/monitors/hello", json={"every": "1h"}, headers=key) as response:
                    address = (await response.json())["key"]
                async with session.get(f"/api/v1/heartbeat/{address}") as response:
                    assert (response.status, await response.text()) == (200, "OK")
                async with session.get("/sign-in") as response:
                    assert response.status == 200
        finally:
            server.terminate()  # the image's signal to stop is the default one
            code = await server.wait()
        assert code == 0
