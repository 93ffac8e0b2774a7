"""Debian's Alertmanager with an always-firing alert, as a dead man's switch."""

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp

from tests.support.clients.programs import make, pings
from tests.support.harness import Server, eventually, needs

_CONFIG = """
route: {{receiver: offbeat, group_by: [alertname], group_wait: 100ms, group_interval: 1s, repeat_interval: 1s}}
receivers:
- name: offbeat
  webhook_configs: [{{url: "{url}"}}]
"""


async def test_a_watchdog_counts_while_it_fires_and_not_when_it_is_resolved(database_url: str, tmp_path: Path) -> None:
    program = needs("prometheus-alertmanager")
    async with Server(database_url) as server:
        key = await make(server, "watchdog", every="1h")
        config = tmp_path / "alertmanager.yml"
        config.write_text(_CONFIG.format(url=f"{server.url}/ping/{key}"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(program, f"--config.file={config}", f"--storage.path={tmp_path / 'store'}"),
            *(f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="),
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await _watch(server, f"http://127.0.0.1:{port}/api/v2/")
        finally:
            process.kill()
            await process.wait()


async def _watch(server: Server, alertmanager: str) -> None:
    async with aiohttp.ClientSession(alertmanager) as session:

        async def send(ends_at: datetime) -> bool:
            alert = {"labels": {"alertname": "Watchdog"}, "endsAt": ends_at.isoformat()}
            try:
                async with session.post("alerts", json=[alert]) as response:
                    return response.status == 200
            except aiohttp.ClientConnectionError:
                return False

        async def received(signal: str, count: int) -> bool:
            return [ping["signal"] for ping in await pings(server, "watchdog")].count(signal) >= count

        await eventually(lambda: send(datetime.now(UTC) + timedelta(hours=1)))
        await eventually(lambda: received("success", 2))
        await eventually(lambda: send(datetime.now(UTC) - timedelta(seconds=1)))
        await eventually(lambda: received("log", 1))
    last = (await pings(server, "watchdog"))[-1]
    assert last["message"] == "resolved: Watchdog (1)"
    assert last["dialect"] == "alertmanager"
