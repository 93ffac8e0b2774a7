"""The command line against the real server: what people see, what programs read, and how it ends."""

import re
import signal
import sys
from pathlib import Path

import asyncpg
import pytest

from offbeat_server.config import Settings
from tests.support.clients.command import file_with, offbeat, started
from tests.support.harness import Behaviour, Receiver, Server, eventually


async def test_help_names_every_setting_and_wrong_ones_are_refused_in_one_line() -> None:
    shown = await offbeat("serve", "--help")
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown.out
        assert f"OFFBEAT_{name.upper()}" in re.sub(r"\s+", "", shown.out)
        assert field.description is not None
        assert re.sub(r"\s+", "", field.description) in re.sub(r"\s+", "", shown.out)
    wrong = await offbeat("serve", "--port", "many", "--workers", "0")
    assert wrong.code == 2 and wrong.out == ""
    lines = wrong.err.splitlines()
    assert lines[0].startswith("offbeat: --port (OFFBEAT_PORT): ") and "'many'" in lines[0]
    assert lines[1].startswith("--workers (OFFBEAT_WORKERS): ")
    assert (await offbeat("serve", "--no-such-flag")).code == 2
    commands = (await offbeat("--help")).out
    for name in ("serve", "apply", "export", "import", "monitors", "runs", "incidents", "channels", "keys", "ping"):
        assert re.search(rf"^  {name} ", commands, re.MULTILINE)
    away = await offbeat("monitors", url="http://127.0.0.1:1")
    assert away.code == 2 and away.err.startswith("offbeat: no answer from http://127.0.0.1:1: ")
    assert (await offbeat("doctor", url="http://127.0.0.1:1")).code == 1


async def test_a_connection_option_counts_before_and_after_the_names_of_a_command() -> None:
    closed, other = "http://127.0.0.1:1", "http://127.0.0.1:2"
    orders = [
        ("--url", closed, "monitors"),
        ("monitors", "--url", closed, "delete", "job"),
        ("--url", other, "monitors", "--url", closed, "show", "job"),
        ("monitors", "--url", other, "show", "job", "--url", closed),
        ("runs", "--url", closed, "job"),
        ("--url", closed, "runs", "of", "job"),
    ]
    for order in orders:
        refused = await offbeat(*order, url=other)
        assert refused.code == 2 and refused.err.startswith(f"offbeat: no answer from {closed}: "), order
    for command in ("serve", "import", "exec", "ping"):
        refused = await offbeat("--url", closed, command)
        assert refused.code == 2 and f"must follow the command: offbeat {command} " in refused.err
    refused = await offbeat("monitors", "--project", "x", "delete", "job", url=closed)
    assert refused.code == 2 and "offbeat monitors delete … --project" in refused.err, "not the job of another project"


async def test_the_runs_of_a_monitor_need_no_word_before_its_slug() -> None:
    commands = (await offbeat("runs", "--help")).out.partition("Commands:")[2]
    assert re.findall(r"^  (\S+) ", commands, re.MULTILINE) == ["SLUG", "close", "show"]
    usage = (await offbeat("runs", "job", "--help")).out.splitlines()[0]
    assert usage.strip().endswith("offbeat runs SLUG [OPTIONS]")


async def test_everything_can_be_seen_and_managed(database_url: str) -> None:
    async with Receiver() as receiver, Server(database_url, "--allow-private-destinations") as server:
        hook = {"kind": "webhook", "url": receiver.url}
        assert (await server.api("PUT", "/api/v1/channels/ops", hook)).status == 201
        body = {"every": "1h", "tags": ["db"], "name": "The backup"}
        key = (await server.api("PUT", "/api/v1/monitors/backup", body)).body["key"]
        await server.api("PUT", "/api/v1/monitors/other", {"every": "1h", "count_outages": True})

        assert (await offbeat("ping", key, "start", "--run", "r1", url=server.url)).code == 0
        assert (await offbeat("ping", key, "3", "--run", "r1", "--message", "no space", url=server.url)).code == 0
        assert (await offbeat("ping", "--slug", "other", url=server.url)).code == 0
        unknown = await offbeat("ping", "no-such-key", url=server.url)
        assert unknown.code == 1 and "404" in unknown.err and "check KEY and --url" in unknown.err
        for rejected in ((), ("--api-key", "wrong")):  # without a key, and with a wrong one
            ping = await offbeat("ping", "--slug", "other", *rejected, OFFBEAT_URL=server.url)
            listed = await offbeat("monitors", *rejected, OFFBEAT_URL=server.url)
            problem = listed.err.removeprefix("offbeat: ")
            assert ping.code == listed.code == 1 and "set --api-key or OFFBEAT_ADMIN_KEY" in problem
            assert ping.err == f"offbeat: {server.url} did not accept the ping: {problem}"
        assert (await offbeat("ping", key, "dance", url=server.url)).code == 2

        async def is_down() -> bool:
            return bool((await server.api("GET", "/api/v1/monitors/backup")).body["status"] == "down")

        await eventually(is_down)
        table = (await offbeat("monitors", url=server.url)).out
        assert re.search(r"^backup +down +", table, re.MULTILINE) and re.search(r"^other +up +", table, re.MULTILINE)
        down = (await offbeat("monitors", "--status", "down", "--json", url=server.url)).json
        assert [m["slug"] for m in down] == ["backup"]
        shown = (await offbeat("monitors", "show", "backup", url=server.url)).out
        assert "The backup" in shown and f"/api/v1/heartbeat/{key}" in shown
        shown = (await offbeat("monitors", "show", "other", url=server.url)).out
        assert re.search(r"^count_outages +True", shown, re.MULTILINE) and "strict" not in shown, "its former name"
        assert (await offbeat("monitors", "show", "nobody", url=server.url)).code == 1

        runs = (await offbeat("runs", "backup", "--json", url=server.url)).json
        assert runs[0]["run"] == "r1" and runs[0]["verdict"] == "failed" and runs[0]["exit_code"] == 3
        assert "r1" in (await offbeat("runs", "backup", url=server.url)).out
        assert "failed" in (await offbeat("runs", "show", runs[0]["id"], url=server.url)).out

        (incident,) = (await offbeat("incidents", "--open", "--json", url=server.url)).json
        assert incident["monitor"] == "backup" and incident["run"] == "r1"
        done = await offbeat("incidents", "acknowledge", incident["id"], "on it", url=server.url)
        assert done.code == 0 and "on it" in done.out

        assert (await server.api("GET", f"/api/v1/incidents/{incident['id']}")).body["acknowledged_by"] == "admin"
        await offbeat("incidents", "resolve", incident["id"], url=server.url)

        async def is_resolved() -> bool:
            answer = await server.api("GET", f"/api/v1/incidents/{incident['id']}")
            return answer.body["resolved_at"] is not None

        await eventually(is_resolved)

        assert re.search(r"^ops +webhook", (await offbeat("channels", url=server.url)).out, re.MULTILINE)
        tested = await offbeat("channels", "test", "ops", url=server.url)
        assert tested.code == 0 and tested.out == "ops: delivered\n", tested
        receiver.behaviour.status = 400
        tested = await offbeat("channels", "test", "ops", url=server.url)
        assert tested.code == 1 and "400" in tested.out

        created = await offbeat("keys", "create", "ci", "--role", "read", url=server.url)
        key = created.out.strip()
        assert (await offbeat("monitors", url=server.url, OFFBEAT_ADMIN_KEY=key)).code == 0
        refused = await offbeat("monitors", "pause", "backup", url=server.url, OFFBEAT_ADMIN_KEY=key)
        assert refused.code == 1 and "may not do this" in refused.err
        (listed,) = (await offbeat("keys", "--json", url=server.url)).json
        assert (await offbeat("keys", "revoke", str(listed["id"]), url=server.url)).code == 0
        assert (await offbeat("monitors", url=server.url, OFFBEAT_ADMIN_KEY=key)).code == 1
        assert (await offbeat("monitors", "pause", "backup", "--json", url=server.url)).json["status"] == "paused"
        assert (await offbeat("monitors", "snooze", "other", "2h", "--json", url=server.url)).json["snoozed_until"]
        healthy = await offbeat("doctor", "--database-url", database_url, url=server.url)
        assert re.search(r"^key +ok", healthy.out, re.MULTILINE) and re.search(
            r"^scheduler +ok", healthy.out, re.MULTILINE
        )
        assert not re.search(r"^keeper", healthy.out, re.MULTILINE)
        findings = (await offbeat("doctor", "--database-url", database_url, "--json", url=server.url)).json
        (scheduler,) = [finding for finding in findings if finding["check"] == "scheduler"]
        assert scheduler["status"] == "ok" and scheduler["message"]
        assert {**scheduler, "check": "keeper", "what": "keeper"} in findings  # for programs that look for it
        for finding in findings:  # former names of the fields
            assert [finding[name] for name in ("what", "state", "said")] == list(finding.values())[:3]


async def test_a_monitor_is_renamed_and_moved_with_its_key(database_url: str) -> None:
    async with Server(database_url) as server:
        await server.api("PUT", "/api/v1/projects/other", {})
        key = (await server.api("PUT", "/api/v1/monitors/job", {"depends_on": []})).body["key"]
        await server.api("PUT", "/api/v1/monitors/report", {"after": {"monitor": "job", "within": "1h"}})

        renamed = await offbeat("monitors", "rename", "job", "load", url=server.url)
        assert renamed.code == 0 and f"/api/v1/heartbeat/{key}" in renamed.out, renamed
        assert "changed: after of monitor report" in renamed.out
        missing = await offbeat("monitors", "show", "job", url=server.url)
        assert missing.code == 1 and "It is load in the project default now." in missing.err

        refused = await offbeat("monitors", "move", "load", "--to", "other", url=server.url)
        assert refused.code == 1 and "monitor report names this monitor in after" in refused.err
        nowhere = await offbeat("monitors", "move", "load", "--to", "nowhere", url=server.url)
        assert nowhere.code == 1 and "nowhere" in nowhere.err
        assert (await offbeat("monitors", "move", "load", url=server.url)).code == 2, "--to is required"
        moved = await offbeat("monitors", "move", "load", "--to", "other", "--drop-references", url=server.url)
        assert moved.code == 0 and "removed: after of monitor report" in moved.out, moved
        again = ("monitors", "rename", "load", "etl", "--project", "other", "--json")
        answer = (await offbeat(*again, url=server.url)).json
        assert (answer["monitor"]["slug"], answer["monitor"]["key"], answer["references"]) == ("etl", key, [])


@pytest.mark.quick
async def test_exec_reports_a_job_and_is_never_in_its_way(database_url: str, tmp_path: Path) -> None:
    async with Server(database_url) as server:
        key = (await server.api("PUT", "/api/v1/monitors/job", {"max_runtime": "1h"})).body["key"]

        async def pings() -> list[dict[str, object]]:
            answer = await server.api("GET", "/api/v1/monitors/job/pings")
            return list(reversed(answer.body["items"]))

        done = await offbeat("exec", key, "--", "sh", "-c", "echo out; echo err >&2; cat", url=server.url, given=b"in")
        assert (done.code, done.out, done.err) == (0, "out\nin", "err\n")
        start, end = await pings()
        assert start["signal"] == "start" and end["signal"] == "success" and end["exit_code"] == 0
        assert start["run"] == end["run"] is not None
        # Two streams: which comes first is up to the machine.
        assert all(text in str(end["message"]) for text in ("out", "in", "err"))
        assert isinstance(end["duration"], float)

        done = await offbeat("exec", key, "sh", "-c", "seq 100000; exit 7", url=server.url)
        assert done.code == 7 and len(done.out) == 588_895
        last = (await pings())[-1]
        assert last["signal"] == "fail" and last["exit_code"] == 7
        assert str(last["message"]).startswith("1\n2\n") and str(last["message"]).rstrip().endswith("100000")

        ready = tmp_path / "ready"
        job = f"trap 'echo bye; exit 9' TERM; touch {ready}; while true; do sleep 0.05; done"
        process = await started("exec", "--alive", "1", key, "--", "sh", "-c", job, url=server.url)

        async def is_running() -> bool:
            return ready.exists() and [p["signal"] for p in await pings()][-2:] == ["start", "log"]

        await eventually(is_running)
        process.send_signal(signal.SIGTERM)
        out, _ = await process.communicate()
        assert process.returncode == 9 and out == b"bye\n"
        assert (await pings())[-1]["exit_code"] == 9

        done = await offbeat("exec", key, "--", "sh", "-c", "kill -KILL $$", url=server.url)
        assert done.code == 137 and (await pings())[-1]["exit_code"] == 137
        done = await offbeat("exec", key, "--", "/no/such/program", url=server.url)
        assert done.code == 127 and "No such file" in done.err
        last = (await pings())[-1]
        assert last["exit_code"] == 127 and "No such file" in str(last["message"])

        nested = f"{sys.executable} -m offbeat ping {key} progress --done 5"
        await offbeat("exec", "--run", "outer", key, "--", "sh", "-c", nested, url=server.url)
        assert [(p["signal"], p["run"]) for p in (await pings())[-3:]] == [
            ("start", "outer"),
            ("progress", "outer"),
            ("success", "outer"),
        ]

    done = await offbeat("exec", "--wait", "0.2", key, "--", "sh", "-c", "echo done; exit 4", url=server.url)
    assert done.code == 4 and done.out == "done\n" and "did not accept the ping" in done.err
    async with Receiver() as receiver:
        receiver.script.extend([Behaviour(status=503, headers={"Retry-After": "0"})] * 3)
        done = await offbeat("exec", "k", "--", "true", url=receiver.url)
        assert done.code == 0 and done.err == ""
        assert [request.path.split("?")[0] for request in receiver.requests] == [
            *["/api/v1/heartbeat/k/start"] * 4,
            "/api/v1/heartbeat/k/0",
        ]


@pytest.mark.parametrize("text", ["monitors:\n  a: {every: 1h}\n", "monitors:\n  a: {every: soon}\n"])
async def test_a_file_is_applied_at_the_start(database_url: str, tmp_path: Path, text: str) -> None:
    file = file_with(tmp_path, "monitors.yaml", text)
    if "soon" in text:
        done = await offbeat("serve", "--database-url", database_url, "--port", "0", "--config", file)
        assert done.code == 2 and "monitors.a.every" in done.err and "Traceback" not in done.err
        return
    async with Server(database_url, "--config", file) as server:
        assert (await server.api("GET", "/api/v1/monitors/a")).body["every"] == "1h"


async def test_doctor_lists_definitions_of_an_earlier_version(database_url: str) -> None:
    async with Server(database_url) as server:
        for slug in ("new", "old"):
            await server.api("PUT", f"/api/v1/monitors/{slug}", {"stages": ["load"]})
        await server.api("PUT", "/api/v1/monitors/plain", {"every": "1h"})
        connection = await asyncpg.connect(database_url)
        await connection.execute("update monitors set newer_fields = default where slug in ('old', 'plain')")
        await connection.close()
        report = " ".join((await offbeat("doctor", url=server.url)).out.split())
        assert "1 were written by an earlier version, and a success of their runs is trusted: old; once" in report
        await server.api("PUT", "/api/v1/monitors/old", {"stages": ["load"], "complete": "trust"})
        assert "an earlier version" not in (await offbeat("doctor", url=server.url)).out
