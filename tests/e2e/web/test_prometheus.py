"""A real Prometheus finds a running server by the shipped configuration, scrapes it, and answers with its numbers."""

import asyncio
import contextlib
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
import yaml

from tests.support.harness import ROOT, Server, eventually, needs

TOKEN = "scrape-me"


class Prometheus:
    """Debian's Prometheus on a free port, with deploy/prometheus.yml pointed at `server` and a faster pace."""

    def __init__(self, directory: Path, server: Server, fast: bool = False) -> None:
        self.directory, self.server, self.fast = directory, server, fast

    async def __aenter__(self) -> Self:
        program = needs("prometheus")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        (self.directory / "prometheus.yml").write_text(yaml.safe_dump(self._config()))
        rules = (ROOT / "deploy" / "alerts.yml").read_text()
        if self.fast:  # what takes minutes takes seconds
            rules = re.sub(r"\[(\d+)m\]", r"[\1s]", rules).replace("for: 1m", "for: 1s")
        (self.directory / "alerts.yml").write_text(rules)
        self.log = (self.directory / "prometheus.log").open("wb")
        self.process = await asyncio.create_subprocess_exec(
            program, f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={self.directory / 'tsdb'}",
            f"--config.file={self.directory / 'prometheus.yml'}", stdout=self.log, stderr=self.log,
        )  # fmt: skip
        self.session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.session.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        await self.process.wait()
        self.log.close()

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
        del config["alerting"]
        [job] = config["scrape_configs"]
        [discovery] = job["http_sd_configs"]
        assert discovery["url"] == "http://offbeat:8080/sd/prometheus"
        discovery |= {"url": f"{self.server.url}/sd/prometheus", "refresh_interval": "500ms"}
        for each in (job, discovery):
            each["authorization"] = {"type": "Bearer", "credentials": TOKEN}
        return config

    async def query(self, expression: str) -> float | None:
        """The value of an expression that gives one number; None while it gives none."""
        try:
            async with self.session.get(f"{self.url}/api/v1/query", params={"query": expression}) as answer:
                result = (await answer.json())["data"]["result"]
        except (aiohttp.ClientError, KeyError):
            return None
        return float(result[0]["value"][1]) if result else None

    async def until(self, expression: str, value: float) -> None:
        """Wait until the expression has this value."""

        async def has() -> bool:
            samples = await self.query(expression)
            assert samples == value, f"{expression} is {samples}, not {value}"
            return True

        try:
            await eventually(has)
        except AssertionError:
            async with self.session.get(f"{self.url}/api/v1/targets") as answer:
                print("its targets:", await answer.text())
            raise


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_prometheus_finds_scrapes_and_counts(database_url: str, tmp_path: Path, workers: str) -> None:
    async with (
        Server(database_url, "--metrics-token", TOKEN, "--workers", workers) as server,
        Prometheus(tmp_path, server) as prometheus,
    ):
        await server.api("PUT", "/api/v1/monitors/nightly", {"every": "1h"})
        key = (await server.api("GET", "/api/v1/monitors/nightly")).body["key"]
        for signal, count in (("", 7), ("/start", 3), ("/fail", 1)):
            for _ in range(count):
                async with server.session.get(f"/api/v1/heartbeat/{key}{signal}") as answer:
                    assert answer.status == 200
        async with server.session.get("/api/v1/heartbeat/00000000-0000-0000-0000-000000000000") as answer:
            assert answer.status == 404

        await prometheus.until('sum(offbeat_pings_total{job="offbeat", result="committed"})', 11)
        await prometheus.until('sum(offbeat_pings_total{signal="start", result="committed"})', 3)
        await prometheus.until('sum(offbeat_http_errors_total{code="404"})', 1)
        await prometheus.until("sum(offbeat_scheduler_leader)", 1)
        await prometheus.until("sum(offbeat_batch_rows_sum)", 11)
        await prometheus.until('max(offbeat_monitors{status="down"})', 1)
        await prometheus.until("min(offbeat_database_up)", 1)
        # Only the dead man's switch is even pending, and what the rules compute with is there.
        await prometheus.until('count(ALERTS{alertname="OffbeatDeadMansSwitch", alertstate="firing"})', 1)
        await prometheus.until("sum(prometheus_rule_evaluation_failures_total) or vector(0)", 0)
        await prometheus.until('count(ALERTS{alertname!="OffbeatDeadMansSwitch"}) or vector(0)', 0)
        # In seconds since 1970: between the time of its own scrape, which may be a while ago, and now.
        age = "time() - max(offbeat_watermark_timestamp_seconds)"
        await prometheus.until(f"({age} > bool -1) * ({age} < bool 60)", 1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_node_that_is_gone_is_noticed(database_url: str, tmp_path: Path, how: signal.Signals) -> None:
    firing = 'ALERTS{alertname="OffbeatDown", alertstate="firing"}'
    async with (
        Server(database_url, "--metrics-token", TOKEN) as stays,
        Server(database_url, "--metrics-token", TOKEN) as goes,
        Prometheus(tmp_path, stays, fast=True) as prometheus,
    ):
        await prometheus.until('count(up{job="offbeat"} == 1)', 2)
        await prometheus.until('min(count_over_time(up{job="offbeat"}[1h])) >= bool 10', 1)
        await prometheus.until(f"count({firing}) or vector(0)", 0)
        os.kill(goes.pid, how)
        # Service discovery forgets it, and the alert fires and stays.
        await prometheus.until('count(up{job="offbeat"})', 1)
        await prometheus.until(f"max(count_over_time({firing}[1h])) >= bool 4", 1)
