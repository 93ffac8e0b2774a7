"""The contract: every refusal is a problem document, every answer fits the OpenAPI document, nothing is a 500."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from offbeat_server.web.api.routes import ROUTES, document
from offbeat_server.web.api.schemas.responses import AlertAnswer, IncidentDetail, ProblemAnswer, RunAnswer, WindowAnswer
from tests.support.channels import closed
from tests.support.harness import ADMIN_KEY, HANG_S, eventually
from tests.support.servers.api_server import Api, serving
from tests.support.servers.scheduler_node import running


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with serving(database_url) as api:
        yield api


def test_every_route_with_a_key_documents_that_wrong_keys_are_counted() -> None:
    for path, operations in document()["paths"].items():
        for operation in operations.values():
            needs_key = operation.get("security") != []
            assert ("401" in operation["responses"], "429" in operation["responses"]) == (needs_key, needs_key), path


async def test_every_refusal_is_a_problem_document(api: Api) -> None:
    cases = [
        ("GET", "/nowhere", None, {}, 404),
        ("PATCH", "/monitors/a", None, {}, 405),
        ("POST", "/monitors/a", None, {}, 405),
        ("PUT", "/monitors/a", b"{}", {}, 415),
        ("PUT", "/monitors/a", b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("PUT", "/monitors/a", b"{", {"Content-Type": "application/json"}, 400),
        ("PUT", "/monitors/a", b"[]", {"Content-Type": "application/json"}, 422),
        ("PUT", "/monitors/a", b"[" * 100_000, {"Content-Type": "application/json"}, 400),
        ("PUT", "/monitors/a", b'{"name": "\xff"}', {"Content-Type": "application/json"}, 400),
        ("PUT", "/monitors/a", b'{"name": "' + b"x" * 1_000_001, {"Content-Type": "application/json"}, 413),
        ("GET", "/monitors?limit=%00", None, {}, 422),
        ("GET", "/monitors/a%00b", None, {}, 404),
        ("GET", "/monitors/a?x=1", None, {}, 422),
        ("GET", "/runs/1-99999999999999999999", None, {}, 404),
        ("GET", "/incidents/x", None, {}, 404),
        ("DELETE", "/keys/99999999999999999", None, {}, 404),
        ("POST", "/alerts/1/resend", None, {}, 404),
        ("GET", "/monitors/%F0%9F%92%A9", None, {}, 404),
    ]
    for method, path, content, headers, status in cases:
        answer = await api(method, path, data=content, headers=headers)
        assert answer.status == status, (method, path, content and content[:20], answer.body)
        assert answer.headers["Content-Type"].startswith("application/problem+json")
        problem = ProblemAnswer.model_validate(answer.body)
        assert problem.status == status and problem.detail and problem.type.startswith("urn:offbeat:problem:")
        assert answer.headers["Cache-Control"] == "no-store"
    allowed = (await api("PATCH", "/monitors/a")).headers["Allow"]
    assert set(allowed.split(",")) == {"GET", "HEAD", "PUT", "DELETE"}
    assert (await api("HEAD", "/monitors")).status == 200


async def test_a_body_that_drips_is_given_up(database_url: str) -> None:
    async with serving(database_url, body_timeout=0.2) as api:
        base = api.session._base_url
        assert base is not None
        host, port = str(base.host), base.port
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(
            b"PUT /api/v1/monitors/a HTTP/1.1\r\nHost: x\r\nX-Api-Key: test-admin-key\r\n"
            b"Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
        )
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), HANG_S)
        assert answer.startswith(b"HTTP/1.1 408")
        writer.close()


async def test_incidents_and_runs_are_shown_and_handled(api: Api) -> None:
    await api("PUT", "/monitors/a", {"every": "1h"})
    monitor = await api.pool.fetchval("select id from monitors")
    for number in range(1, 6):
        await api.pool.execute(
            "insert into incidents (monitor_id, number, project_id, opened_at, resolved_at, decided_at, cause, reason,"
            " causes) select $1, $2::integer, project_id, now() - interval '1 day' + make_interval(hours => $2), $3,"
            " now(), 'missed', 'Nothing came.', $4 from monitors",
            monitor,
            number,
            None if number == 5 else await api.pool.fetchval("select now()"),
            [{"kind": "missed", "opened_at": 1_700_000_000_000_000, "reason": "Nothing came."}],
        )
    listed = (await api("GET", "/incidents?limit=2")).body
    assert [i["number"] for i in listed["items"]] == [5, 4]
    rest = (await api("GET", f"/incidents?cursor={listed['next_cursor']}")).body
    assert [i["number"] for i in rest["items"]] == [3, 2, 1] and rest["next_cursor"] is None
    assert [i["number"] for i in (await api("GET", "/monitors/a/incidents?open=true")).body["items"]] == [5]
    assert (await api("GET", "/monitors/a")).body["open_incident"] == f"{monitor}-5"

    done = await api("POST", f"/incidents/{monitor}-5/acknowledge", {"comment": "on it"})
    assert done.status == 200 and done.body["acknowledged_by"] == "admin"
    assert (await api("POST", f"/incidents/{monitor}-5/comments", {"comment": "found it"})).status == 200
    assert (await api("POST", f"/incidents/{monitor}-5/resolve")).status == 202
    await api.pool.execute(
        "insert into alerts (project_id, monitor_id, incident, kind, facts) values (1, $1, 5, 'opened', $2)",
        monitor,
        {"monitor": "a", "last_message": "x" * 10_000},
    )
    [alert] = (await api("GET", "/alerts?state=pending")).body["items"]
    assert AlertAnswer.model_validate(alert).monitor == "a" and alert["incident"] == f"{monitor}-5"
    await api.pool.execute(
        "insert into alerts (project_id, monitor_id, incident, kind, facts, state)"
        " values (1, $1, 4, 'resolved', '{}', 'collapsed')",
        monitor,
    )
    [cancelled] = (await api("GET", "/alerts?state=cancelled")).body["items"]
    assert cancelled["state"] == "collapsed" and cancelled["kind"] == "resolved"
    assert (await api("GET", "/alerts?state=collapsed")).body["items"] == [cancelled]
    assert (await api("GET", "/alerts?state=superseded")).status == 422
    shown = (await api("GET", f"/incidents/{monitor}-5")).body
    IncidentDetail.model_validate(shown)
    assert shown["alerts"] == [alert]
    assert [(n["kind"], n["comment"], n["by"]) for n in shown["notes"]] == [
        ("acknowledge", "on it", "admin"),
        ("comment", "found it", "admin"),
        ("resolve", None, "admin"),
    ]
    row = await api.pool.fetchrow("select * from changes where kind = 'acknowledge'")
    assert row is not None and row["monitor_id"] == monitor
    assert row["after"] == {"incident": 5, "by": "admin", "comment": "on it"}
    assert (await api("POST", f"/incidents/{monitor}-4/acknowledge")).status == 409

    await api.pool.execute(
        "insert into runs (monitor_id, number, project_id, run, started_at, last_ping_at, detail)"
        " select $1, 1, project_id, 'r1', now(), now(), $2 from monitors",
        monitor,
        {
            "stages": [
                {"name": "extract", "status": "running", "started_at": 1_700_000_000_000_000, "finished_at": None}
            ],
            "progress": {"done": 1, "total": 2, "rate": 0.5, "eta": 1_700_000_002_000_000},
        },
    )
    runs = (await api("GET", "/monitors/a/runs?open=true")).body["items"]
    RunAnswer.model_validate(runs[0])
    assert runs[0]["id"] == f"{monitor}-1" and runs[0]["stages"][0]["started_at"] == "2023-11-14T22:13:20Z"
    assert runs[0]["progress"]["eta"] == "2023-11-14T22:13:22Z"
    assert (await api("GET", f"/runs/{monitor}-1")).body == runs[0]
    assert (await api("GET", "/monitors/a")).body["open_runs"] == 1


async def test_maintenance_windows(api: Api) -> None:
    now = datetime.now(UTC)
    once = {"start": (now - timedelta(hours=1)).isoformat(), "end": (now + timedelta(hours=1)).isoformat()}
    created = await api("PUT", "/windows/move", {**once, "monitors": ["etl-*"]})
    assert created.status == 201, created.body
    WindowAnswer.model_validate(created.body)
    assert datetime.fromisoformat(created.body["open_until"]) == now + timedelta(hours=1)
    nightly = await api(
        "PUT", "/windows/nightly", {"oncalendar": "03:00", "timezone": "Europe/Berlin", "duration": "1h"}
    )
    assert nightly.status == 201
    assert [w["slug"] for w in (await api("GET", "/windows")).body["items"]] == ["move", "nightly"]
    refused = await api("PUT", "/windows/wrong", {"cron": "0 3 * * *", "end": once["end"], "timezone": "Mars"})
    assert refused.status == 422 and refused.body["errors"]
    assert (await api("PUT", "/windows/move", {**once, "monitors": ["etl-*"]})).body == created.body
    stale = await api("PUT", "/windows/move", once, headers={"If-Match": '"x"'})
    assert stale.status == 412
    assert (await api("PUT", "/windows/move", once, headers={"If-Match": created.headers["ETag"]})).status == 200
    assert (await api("DELETE", "/windows/move")).status == 204
    rows = await api.pool.fetch("select * from changes where kind = 'window' order by rev")
    assert [(row["before"] is None, row["after"] is None) for row in rows] == [
        *((True, False), (True, False), (False, False), (False, True)),
    ]
    assert rows[0]["after"]["id"] == rows[3]["before"]["id"] and rows[0]["monitor_id"] is None


def test_the_document_names_every_route() -> None:
    described = document()
    assert described["openapi"] == "3.1.0"
    operations = [operation for path in described["paths"].values() for operation in path.values()]
    assert len(operations) == len(ROUTES)
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] for operation in operations)
    monitor = described["components"]["schemas"]["MonitorBody"]["properties"]
    assert monitor["grace"]["description"] and monitor["stages"]["maxItems"] == 100


def faults(node: Any, path: str) -> Iterator[str]:
    """Places in the document that are incomplete: bare objects and arrays, properties without a description."""
    if isinstance(node, list):
        for number, each in enumerate(node):
            yield from faults(each, f"{path}/{number}")
    if not isinstance(node, dict):
        return
    if node.get("type") == "array" and not node.get("items"):
        yield f"{path}: an array without items"
    if node.get("type") == "object" and not (
        node.get("properties") or node.get("patternProperties") or isinstance(node.get("additionalProperties"), dict)
    ):
        yield f"{path}: an object without properties"
    if node.get("additionalProperties") is True:
        yield f"{path}: an object with any properties"
    for name, described in node.get("properties", {}).items():
        if not described.get("description"):
            yield f"{path}.{name}: a property without a description"
        yield from faults(described, f"{path}.{name}")
    for name, value in node.items():
        if name not in ("properties", "examples", "example", "default", "const", "enum"):
            yield from faults(value, f"{path}/{name}")


def test_the_document_describes_every_property() -> None:
    described = document()
    assert list(faults(described["components"]["schemas"], "schemas")) == []
    assert list(faults(described["paths"], "paths")) == [] and list(faults(described["webhooks"], "webhooks")) == []
    # The check itself finds what is wrong.
    assert len(described["components"]["schemas"]) > 100
    wrong = {"type": "object", "properties": {"a": {"type": "array"}, "b": {"type": "object", "description": "B."}}}
    assert [fault.partition(": ")[2] for fault in faults(wrong, "")] == [
        "a property without a description",
        "an array without items",
        "an object without properties",
    ]


def test_every_reference_in_the_document_leads_to_a_schema() -> None:
    described = document()
    refs = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(described)))
    mapped = set(re.findall(r'": "(#/components/[^"]+)"', json.dumps(described)))
    assert {ref.rpartition("/")[2] for ref in refs | mapped} <= described["components"]["schemas"].keys()
    assert all(ref.startswith("#/components/schemas/") for ref in refs)


async def test_real_answers_have_what_the_document_describes_and_no_more(database_url: str) -> None:
    """With stages, tasks, progress, causes, members and alerts that a real scheduler has decided."""
    described = document()
    components = closed(described["components"])

    async with serving(database_url) as api, running(database_url) as node:

        async def get(template: str, query: str = "", **parts: Any) -> Any:
            answer = await api("GET", template.format(**parts) + query)
            assert answer.status == 200, answer.body
            content = described["paths"]["/api/v1" + template]["get"]["responses"]["200"]["content"]
            schema = {**content["application/json"]["schema"], "components": components}
            errors = jsonschema_rs.Draft202012Validator(schema, validate_formats=True).iter_errors(answer.body)
            assert [f"{each.instance_path}: {each.message}" for each in errors] == [], template
            return answer.body

        secret = "whsec_" + "A" * 32
        hook = {"kind": "webhook", "url": "http://127.0.0.1:9/x", "secrets": [secret], "default": True}
        assert (await api("PUT", "/channels/hook", hook)).status == 201
        manager = {"kind": "alertmanager", "urls": ["http://127.0.0.1:9"], "labels": {"team": "data"}}
        assert (await api("PUT", "/channels/manager", manager)).status == 201
        far_hour = (datetime.now(UTC).hour + 12) % 24  # a window that is open now would keep the alerts back
        window = {"cron": f"0 {far_hour} * * *", "timezone": "Europe/Berlin", "duration": "1h", "tags": ["night"]}
        assert (await api("PUT", "/windows/nightly", window)).status == 201
        stages = [{"name": "extract"}, {"name": "load", "tasks": {"expected": 3}}]
        job = await node.monitor("etl", stages=stages, tasks={"expected": 2}, max_runtime="1h", tags=["etl"])
        fleet = await node.monitor("fleet", members={"every": "1h", "min_alive": 1})
        await node.ping(fleet, "progress", task="worker-1")
        for _ in range(3):
            await node.ping(job, "start", stage="extract", run="whole")
            await node.ping(job, "success", stage="extract", run="whole")
        await node.ping(job, "start", run="42", message="begin")
        await node.ping(job, "start", run="42", stage="load", task="a")
        await node.ping(job, "progress", run="42", stage="load", task="a", done=1, total=9)
        await node.ping(job, "progress", run="42", stage="load", task="a", done=3, total=9)
        await node.ping(job, "fail", run="42", stage="load", task="b", message="disk full")
        await node.ping(job, "success", run="42", task="own")
        await node.ping(job, "progress", run="42", done=10, total=40)
        await node.ping(job, "progress", run="42", done=20, total=40)
        await node.ping(job, "fail", run="43", exit_code=3, duration=1.5)
        await node.is_status(job, "down")

        async def recorded() -> bool:
            return bool(await api.pool.fetchval("select count(*) >= 2 from runs where verdict is not null"))

        await eventually(recorded)
        runs = {run["run"]: run for run in (await get("/monitors/{slug}/runs", slug="etl"))["items"]}
        run = await get("/runs/{id}", id=runs["42"]["id"])
        progress = run["stages"][1]["tasks"]["progress"][0]
        assert (progress["task"], progress["done"], progress["eta"][:2]) == ("a", 3, "20")
        assert run["progress"]["eta"] and run["tasks"]["done"] == 1
        [incident] = (await get("/incidents"))["items"]
        assert {cause["kind"] for cause in incident["causes"]} == {"failed", "tasks"}
        note = await api("POST", f"/incidents/{incident['id']}/acknowledge", {"comment": "on it"})
        assert note.status == 200
        shown = await get("/incidents/{id}", id=incident["id"])
        assert shown["notes"] and shown["alerts"]
        assert (await get("/monitors/{slug}/members", slug="fleet"))["items"][0]["name"] == "worker-1"
        for template in ("/monitors", "/channels", "/windows", "/projects", "/alerts", "/changes", "/export", "/keys"):
            assert await get(template), template
        assert (await get("/monitors/{slug}/pings", slug="etl"))["items"][0]["exit_code"] == 3
        for template in ("/monitors/{slug}", "/monitors/{slug}/durations", "/monitors/{slug}/incidents"):
            assert await get(template, slug="etl"), template
        assert (await get("/channels/{slug}", slug="hook"))["secrets"] != [secret]


CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
LINE_BYTES_MAX = 8_000
EXAMPLES = 6  # of each kind and operation; some seconds in all


@pytest.mark.parametrize("kind", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
async def test_fuzzed_requests_get_answers_that_fit_the_document(database_url: str, kind: GenerationMode) -> None:
    results: Any = schemathesis.openapi.from_dict(document()).get_all_operations()
    operations = [result.ok() for result in results]
    assert len(operations) == len(ROUTES)

    def fuzz(base_url: str) -> None:
        for operation in operations:
            if operation.label == "POST /api/v1/channels/{slug}/test":
                continue  # waits for a dispatcher

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=kind))
            def one(case: Any) -> None:
                response = case.call(base_url=base_url, headers={"Authorization": f"Bearer {ADMIN_KEY}"})
                assert response.status_code < 500, (case.as_curl_command(), response.text)
                promised, content = response.headers.get("content-length"), response.content
                assert promised is None or int(promised[0]) == len(content), (promised, content[-100:])
                if len(response.request.url or "") > LINE_BYTES_MAX:
                    return  # refused by the parser of HTTP, before there is an API
                case.validate_response(response, checks=CHECKS)

            with contextlib.suppress(Unsatisfiable):  # nothing to do wrong in a request without parts
                one()

    async with serving(database_url) as api:
        await api("PUT", "/monitors/a", {"every": "1h"})
        await api.ping("a", message="hello")
        await asyncio.to_thread(fuzz, str(api.session._base_url))
        assert (await api("GET", "/monitors")).status == 200
