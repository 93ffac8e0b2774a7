"""Two jobs as people write them, as real processes against a real server, until an alert arrives."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import Received, Receiver, Server, eventually, needs

SHELL_JOB = """#!/bin/sh
# Nightly backup. Three keys of one monitor: start, success, failure.
curl -m 10 -fsS -o /dev/null "$BASE/$BACKUP_START_KEY?run=$RUN"
sh -c "$WORK"
status=$?
if [ $status -eq 0 ]; then
  curl -m 10 -fsS -o /dev/null "$BASE/$BACKUP_COMPLETE_KEY?run=$RUN"
else
  curl -m 10 -fsS -o /dev/null -d "backup ended with $status" "$BASE/$BACKUP_FAILURE_KEY?run=$RUN"
fi
"""

ETL_JOB = """
import os
import sys

import requests

URL = os.environ["ETL_URL"]


def tell(status, message, **more):
    answer = requests.post(URL, json={"status": status, "message": message, **more}, timeout=10)
    answer.raise_for_status()


def extract():
    return [{"id": 1}, {"name": "no id"}]


def transform(rows):
    return [row["id"] for row in rows]


tell("start", "nightly ETL")
step = "extract"
try:
    rows = extract()
    tell("success", f"{len(rows)} rows", stage=step)
    step = "transform"
    tell("start", "begin", stage=step)
    ids = transform(rows if len(sys.argv) > 1 else rows[:1])
    tell("success", f"{len(ids)} ids", stage=step)
    tell("success", "done")
except Exception as error:
    tell("fail", f"{step}: {error!r}", stage=step)
    raise SystemExit(1)
"""


async def _run(path: Path, env: dict[str, str], *arguments: str) -> asyncio.subprocess.Process:
    program = [sys.executable, str(path)] if path.suffix == ".py" else ["/bin/sh", str(path)]
    return await asyncio.create_subprocess_exec(
        *program, *arguments, env={"PATH": os.environ["PATH"], **env}, start_new_session=True
    )


async def _webhook(server: Server, receiver: Receiver) -> None:
    answer = await server.api("PUT", "/api/v1/channels/oncall", {"kind": "webhook", "url": receiver.url})
    assert answer.status in (200, 201), answer


def _is(kind: str, cause: str | None = None) -> Any:
    def matches(request: Received) -> bool:
        body = request.json
        facts = body.get("data", body)
        return kind in str(body.get("type", facts.get("kind"))) and (cause is None or facts.get("cause") == cause)

    return matches


async def test_a_killed_backup_sends_an_alert_and_the_next_night_resolves_it(database_url: str, tmp_path: Path) -> None:
    needs("curl")
    script = tmp_path / "backup.sh"
    script.write_text(SHELL_JOB)
    async with Receiver() as receiver, Server(database_url, "--allow-private-destinations") as server:
        await _webhook(server, receiver)
        created = await server.api(
            "PUT",
            "/api/v1/monitors/backup",
            {
                "max_runtime": "3s",
                "keys": [{"signal": "start"}, {"signal": "success"}, {"signal": "fail"}],
            },
        )
        assert created.status == 201, created
        keys = {key["signal"]: key["key"] for key in created.body["keys"] if key["signal"]}
        env = {
            "BASE": f"{server.url}/api/v1/heartbeat",
            "BACKUP_START_KEY": keys["start"],
            "BACKUP_COMPLETE_KEY": keys["success"],
            "BACKUP_FAILURE_KEY": keys["fail"],
        }

        good = await _run(script, {**env, "RUN": "monday", "WORK": "true"})
        assert await good.wait() == 0
        bad = await _run(script, {**env, "RUN": "tuesday", "WORK": "exit 3"})
        assert await bad.wait() == 0
        alert = await receiver.wait_for(_is("opened", "failed"))
        assert "backup ended with 3" in alert.body.decode() and "tuesday" in alert.body.decode()
        good = await _run(script, {**env, "RUN": "wednesday", "WORK": "true"})
        assert await good.wait() == 0
        await receiver.wait_for(_is("resolved"))

        hanging = await _run(script, {**env, "RUN": "thursday", "WORK": "sleep 60"})
        run = await eventually(lambda: _open_run(server))
        os.killpg(hanging.pid, signal.SIGKILL)
        await hanging.wait()
        alert = await receiver.wait_for(_is("opened", "hung"))
        assert "thursday" in alert.json["data"]["reason"]
        deadline = _unix(run["started_at"]) + 3
        assert abs(_unix(alert.json["data"]["opened_at"]) - deadline) < 0.001 and alert.at >= deadline

        good = await _run(script, {**env, "RUN": "friday", "WORK": "true"})
        assert await good.wait() == 0
        await eventually(lambda: _status(server, "backup", "up"))
        answer = await server.api("GET", "/api/v1/monitors/backup/incidents")
        assert [i["cause"] for i in answer.body["items"]] == ["hung", "failed"]
        assert all(i["resolved_at"] for i in answer.body["items"])


async def test_an_etl_that_fails_in_its_second_step_carries_the_message(database_url: str, tmp_path: Path) -> None:
    script = tmp_path / "etl.py"
    script.write_text(ETL_JOB)
    async with Receiver() as receiver, Server(database_url, "--allow-private-destinations") as server:
        await _webhook(server, receiver)
        created = await server.api(
            "PUT", "/api/v1/monitors/etl", {"every": "1d", "stages": [{"name": "extract"}, {"name": "transform"}]}
        )
        env = {"ETL_URL": created.body["ping_url"]}
        bad = await _run(script, env, "all rows")
        assert await bad.wait() == 1
        alert = await receiver.wait_for(_is("opened"))
        assert "KeyError" in alert.json["data"]["reason"] and alert.json["data"]["stage"] == "transform"
        good = await _run(script, env)
        assert await good.wait() == 0
        await receiver.wait_for(_is("resolved"))
        pings = (await server.api("GET", "/api/v1/monitors/etl/pings")).body["items"]
        assert [(p["signal"], p["stage"]) for p in reversed(pings)][:3] == [
            ("start", None),
            ("success", "extract"),
            ("start", "transform"),
        ]


async def test_an_alert_arrives_within_a_second_of_the_deadline(database_url: str) -> None:
    """The promise of the README. The least of five delays: a slow machine delays some alerts, a slow server all."""
    async with Receiver() as receiver, Server(database_url, "--allow-private-destinations") as server:
        await _webhook(server, receiver)
        for number in range(1, 6):  # their deadlines are a second apart
            job = {"every": "1s", "grace": f"{number}s", "channels": ["oncall"]}
            key = (await server.api("PUT", f"/api/v1/monitors/job{number}", job)).body["key"]
            async with server.session.get(f"/api/v1/heartbeat/{key}") as response:
                assert response.status == 200
        delays_s = []
        for number in range(1, 6):

            def opened(message: Received, slug: str = f"job{number}") -> bool:
                return bool(_is("opened")(message) and message.json["data"]["monitor"] == slug)

            alert = await receiver.wait_for(opened)
            delays_s.append(alert.at - _unix(alert.json["data"]["opened_at"]))
        assert min(delays_s) < 1, delays_s


async def _open_run(server: Server) -> Any:
    answer = await server.api("GET", "/api/v1/monitors/backup/runs")
    return next((run for run in answer.body["items"] if run["finished_at"] is None), None)


async def _status(server: Server, slug: str, status: str) -> bool:
    return bool((await server.api("GET", f"/api/v1/monitors/{slug}")).body["status"] == status)


def _unix(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


pytestmark = pytest.mark.slow
