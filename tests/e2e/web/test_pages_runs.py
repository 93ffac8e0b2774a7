"""The page of a run: its groups of tasks, with names that are expected and without."""

from html import escape
from typing import Any

from tests.support.clients.pages import signed_in
from tests.support.harness import Server, eventually

STAGES: list[dict[str, Any]] = [
    {"name": "regions", "tasks": {"expected": ["eu-north", "eu-south", "us"]}},
    {"name": "chunks", "tasks": {"expected": 3}},
]


async def test_tasks_with_and_without_expected_names(database_url: str) -> None:
    async with Server(database_url) as server, signed_in(server) as pages:
        await server.api("PUT", "/api/v1/monitors/fan", {"stages": STAGES, "key": "fan/out"})
        sent = [
            {"key": "fan/out", "status": signal, "run": "r", "stage": stage, "task": task}
            for signal, stage, task in (
                ("success", "regions", "us"),
                ("start", "regions", "eu-south"),
                ("fail", "regions", "<asia>"),
                ("success", "regions", "eu-west"),
                ("success", "chunks", "1"),
            )
        ]
        assert (await server.api("POST", "/api/v1/heartbeats", sent)).body["accepted"] == len(sent)

        async def shown() -> Any:
            runs = (await server.api("GET", "/api/v1/monitors/fan/runs")).body["items"]
            return runs[0] if runs and runs[0]["verdict"] == "failed" else None

        run = await eventually(shown)
        run = (await server.api("GET", f"/api/v1/runs/{run['id']}")).body
        regions, chunks = (stage["tasks"] for stage in run["stages"])
        assert regions["missing"] == ["eu-south", "eu-north"] and regions["missing_count"] == 2
        assert (regions["done"], regions["started"], regions["failed_names"]) == (1, 2, ["<asia>"])
        others = regions["unexpected_names"]  # in another order if the state was written in between
        assert (regions["unexpected"], sorted(others)) == (2, ["<asia>", "eu-west"])
        assert chunks["missing"] == ["2", "3"] and "unexpected" not in chunks
        text = await pages.get(f"/runs/{run['id']}")
        assert "1 of 3 done, 1 failed" in text and f"<strong>Unexpected 2:</strong> {escape(', '.join(others))}" in text
        assert "<strong>Missing 2:</strong> eu-south, eu-north" in text
        assert text.count("Unexpected") == 1 and 'aria-label="1 done, 0 failed, 2 missing"' in text
