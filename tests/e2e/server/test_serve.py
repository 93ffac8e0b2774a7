"""`offbeat serve` as a newcomer meets it: embedded Postgres, what it prints, restarts, a file applied at the start."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import asyncpg
import pytest

from offbeat_server.config import Settings
from tests.support.harness import ADMIN_KEY, Behaviour, Postgres, Receiver, Server, eventually, needs


async def _shell(line: str) -> str:
    process = await asyncio.create_subprocess_shell(
        line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def _printed_lines(server: Server) -> list[str]:
    """The three curl lines, as they would be pasted."""
    text = "\n".join(server.output)
    return [
        re.sub(r"\\\n\s*", "", each).strip() for each in re.findall(r"^  (curl (?:.*\\\n)*.*)$", text, re.MULTILINE)
    ]


async def test_the_printed_lines_work_when_pasted_and_data_survives(data_dir: Path) -> None:
    needs("curl")
    async with Server(None, data_dir=data_dir, env={"OFFBEAT_ADMIN_KEY": ""}) as server:
        lines = await eventually(lambda: _three(server))
        assert lines is not None
        assert any("admin key (shown once" in line for line in server.output)
        created, pinged, shown = [await _shell(line) for line in lines]
        assert '"slug":"hello"' in created and pinged == "OK" and '"last_ping_at":"2' in shown
        assert await server.stop() == 0
        await server.start()
        assert not any("admin key (shown once" in line for line in server.output[-12:])
        again = await _shell(lines[2])
        assert '"last_ping_at":"2' in again
        await server.kill()
        await server.start()
        assert await _shell(lines[1]) == "OK"
        assert '"status":"up"' in await _shell(lines[2])


@pytest.mark.quick
async def test_a_file_is_applied_at_the_start_and_a_wrong_one_stops_it(database_url: str, tmp_path: Path) -> None:
    config = tmp_path / "monitors.yaml"
    config.write_text("monitors:\n  nightly: {cron: '0 2 * * *', grace: 10m}\n")
    async with Server(database_url, "--config", str(config)) as server:

        async def applied() -> bool:
            return (await server.api("GET", "/api/v1/monitors/nightly")).status == 200

        await eventually(applied)
    config.write_text("monitors:\n  nightly: {cron: '61 2 * * *'}\n")
    with pytest.raises(AssertionError, match="nothing was changed"):
        async with Server(database_url, "--config", str(config)):
            pass


async def test_the_banner_says_where_it_listens(database_url: str) -> None:
    async with Server(database_url) as server:
        assert f"listening on http://127.0.0.1:{server.port}" in server.output
    for host, shown in (("0.0.0.0", "0.0.0.0"), ("::", "[::]")):
        command = [
            sys.executable,
            "-m",
            "offbeat",
            "serve",
            "--host",
            host,
            "--port",
            "0",
            "--database-url",
            database_url,
        ]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment())
        assert process.stdout is not None
        async for line in process.stdout:
            if b"listening on" in line:
                break
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert re.fullmatch(
            rf"listening on http://{re.escape(shown)}:\d+ \(all addresses of this machine\)\n", line.decode()
        )
    assert Settings.model_fields["host"].default == "127.0.0.1"


def environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OFFBEAT_")}
    return inherited | {"OFFBEAT_ADMIN_KEY": ADMIN_KEY}


async def _three(server: Server) -> list[str] | None:
    lines = _printed_lines(server)
    return lines[:3] if len(lines) >= 3 else None


async def test_it_runs_on_the_oldest_postgres(debian_postgres: Postgres) -> None:
    async with debian_postgres.fresh(empty=True) as url, Server(url) as server:
        created = await server.api("PUT", "/api/v1/monitors/job", {"every": "1s", "grace": "500ms"})
        async with server.session.get(f"/api/v1/heartbeat/{created.body['key']}") as answer:
            assert answer.status == 200

        async def down() -> bool:
            return bool((await server.api("GET", "/api/v1/monitors/job")).body["status"] == "down")

        await eventually(down)


async def test_two_servers_start_at_once_on_an_empty_database(postgres: Postgres) -> None:
    async with postgres.fresh(empty=True) as url:
        servers = [Server(url), Server(url)]
        try:
            await asyncio.gather(*(server.start() for server in servers))
            created = await servers[0].api("PUT", "/api/v1/monitors/job", {"every": "1h"})
            # Made by one, known to the other within two seconds at most; an unknown key is asked for at once.
            async with servers[1].session.get(f"/api/v1/heartbeat/{created.body['key']}") as answer:
                assert answer.status == 200
            schedulers = []
            for server in servers:
                async with server.session.get("/metrics") as answer:
                    schedulers += [
                        line for line in (await answer.text()).splitlines() if line == "offbeat_scheduler_leader 1.0"
                    ]
            assert len(schedulers) == 1
        finally:
            for server in servers:
                await server.__aexit__(None, None, None)


async def test_a_stop_releases_the_lease_before_it_waits_for_a_receiver(
    database_url: str, database: asyncpg.Connection
) -> None:
    """The next scheduler need not wait for a message on its way."""
    async with (
        Receiver(Behaviour(hang=True)) as receiver,
        Server(database_url, "--allow-private-destinations") as server,
    ):
        hook = {"slug": "hook", "kind": "webhook", "url": receiver.url}
        answer = await server.api("POST", "/api/v1/apply", {"channels": [hook]})
        assert answer.status == 200, answer
        answer = await server.api("PUT", "/api/v1/monitors/job", {"every": "1h", "channels": ["hook"]})
        async with server.session.get(f"/api/v1/heartbeat/{answer.body['key']}/fail") as pinged:
            assert pinged.status == 200
        await receiver.wait_count(1)
        os.kill(server.pid, signal.SIGTERM)

        async def given_up() -> set[str]:
            rows = await database.fetch("select name from lease where expires_at = '-infinity'")
            return {row["name"] for row in rows}

        assert await eventually(given_up) == {"keeper"}
        assert await server.ended() == 0
        assert await given_up() == {"keeper", "courier"}
