"""Rights: keys, roles, projects, and the data that each principal may see."""

from collections.abc import AsyncIterator

import pytest

from offbeat_server.web.api.schemas.responses import AccessKeyAnswer, ProjectAnswer
from tests.support.servers.api_server import Api, serving


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with serving(database_url) as api:
        yield api


async def make(api: Api, role: str, project: str | None = None) -> str:
    answer = await api("POST", "/keys", {"name": f"{role} key", "role": role, "project": project})
    assert answer.status == 201, answer.body
    AccessKeyAnswer.model_validate(answer.body)
    return str(answer.body["key"])


async def test_without_a_valid_key_nothing_is_shown(api: Api) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic dGVzdC1hZG1pbi1rZXk="},
        {"Authorization": "Bearer "},
        {"X-Api-Key": "x" * 10_000 if False else "x" * 500},
    ):
        for path in ("/monitors", "/monitors/exists-or-not", "/keys"):
            answer = await api("GET", path, key=None, headers=headers)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert (await api("GET", "/openapi.json", key=None)).status == 200
    assert (await api("GET", "/monitors", key=None, headers={"X-Api-Key": "test-admin-key"})).status == 200


async def test_roles(api: Api) -> None:
    await api("PUT", "/monitors/a", {"keys": [{"signal": "fail"}]})
    read, ping, admin = await make(api, "read"), await make(api, "ping"), await make(api, "admin")
    allowed = {
        ("GET", "/monitors/a"): (200, 200, 403),
        ("GET", "/changes"): (200, 200, 403),
        ("GET", "/keys"): (403, 200, 403),
        ("GET", "/export"): (403, 200, 403),
        ("POST", "/monitors/a/pause"): (403, 200, 403),
        ("POST", "/monitors/a/ping"): (403, 204, 204),
        ("DELETE", "/monitors/nobody"): (403, 404, 403),
    }
    for (method, path), statuses in allowed.items():
        given = [(await api(method, path, key=key)).status for key in (read, admin, ping)]
        assert tuple(given) == statuses, (method, path)

    seen = (await api("GET", "/monitors/a", key=read)).body
    assert seen["key"] is None and seen["ping_url"] is None
    assert seen["keys"] == [{"key": None, "ping_url": None, "signal": "fail", "stage": None}]
    project = await api("GET", "/projects/default", key=read)
    ProjectAnswer.model_validate(project.body)
    assert project.body["ping_key"] is None
    assert len((await api("GET", "/projects/default", key=admin)).body["ping_key"]) == 32


async def test_a_key_of_a_project_sees_nothing_else(api: Api) -> None:
    await api("PUT", "/projects/shop", {})
    await api("PUT", "/monitors/a", {})
    await api("PUT", "/monitors/cart?project=shop", {})
    key = await make(api, "admin", "shop")
    assert [m["slug"] for m in (await api("GET", "/monitors", key=key)).body["items"]] == ["cart"]
    assert (await api("GET", "/monitors/cart", key=key)).body["project"] == "shop"
    assert (await api("PUT", "/monitors/own", {}, key=key)).body["project"] == "shop"
    assert [p["slug"] for p in (await api("GET", "/projects", key=key)).body["items"]] == ["shop"]
    for method, path in (
        ("GET", "/monitors/a"),
        ("GET", "/monitors/a?project=default"),
        ("GET", "/monitors?project=default"),
        ("PUT", "/monitors/a?project=default"),
        ("GET", "/projects/default"),
        ("GET", "/export?project=default"),
    ):
        answer = await api(method, path, {} if method == "PUT" else None, key=key)
        assert answer.status == 404, (method, path, answer.body)
    assert (await api("PUT", "/projects/other", {}, key=key)).status == 403
    assert (await api("POST", "/keys", {"name": "x", "role": "admin", "project": "default"}, key=key)).status == 404
    created = await api("POST", "/keys", {"name": "x", "role": "admin"}, key=key)
    assert created.body["project"] == "shop", "never more than one's own"
    assert (await api("DELETE", "/keys/1", key=key)).status == 204
    applied = await api("POST", "/apply", {"monitors": {"x": {}}}, key=created.body["key"])
    assert applied.body["changes"][0]["project"] == "shop"
    refused = await api("POST", "/apply", {"monitors": {"x": {"project": "default"}}}, key=created.body["key"])
    assert refused.status == 422
    assert {c["project"] for c in (await api("GET", "/changes", key=created.body["key"])).body["items"]} == {"shop"}


async def test_a_revoked_key_is_unknown_at_once(api: Api) -> None:
    answer = await api("POST", "/keys", {"name": "ci", "role": "read"})
    key = answer.body["key"]
    assert (await api("GET", "/monitors", key=key)).status == 200
    listed = (await api("GET", "/keys")).body["items"]
    assert [(k["name"], k["prefix"]) for k in listed] == [("ci", key[:10])]
    assert listed[0]["last_used_at"] is not None and "key" not in listed[0]
    assert (await api("DELETE", f"/keys/{answer.body['id']}")).status == 204
    assert (await api("GET", "/monitors", key=key)).status == 401
    assert (await api("GET", "/keys")).body["items"][0]["revoked_at"] is not None
    assert (await api("DELETE", f"/keys/{answer.body['id']}")).status == 204
    assert (await api("DELETE", "/keys/99999")).status == 404
    kinds = [(c["kind"], c["action"], c["subject"]) for c in (await api("GET", "/changes?kind=key")).body["items"]]
    assert kinds == [("key", "delete", key[:10]), ("key", "create", key[:10])]


async def test_keys_are_not_in_the_database(api: Api) -> None:
    key = await make(api, "read")
    for table in ("access_keys", "changes", "creations"):
        for row in await api.pool.fetch(f"select t::text as text from {table} t"):
            assert key not in row["text"] and key[10:] not in row["text"]


async def test_making_a_key_twice_with_one_idempotency_key_makes_one(api: Api) -> None:
    body, headers = {"name": "x", "role": "read"}, {"Idempotency-Key": "once"}
    first = await api("POST", "/keys", body, headers=headers)
    again = await api("POST", "/keys", body, headers=headers)
    assert again.status == 201 and again.body["id"] == first.body["id"]
    assert "key" not in again.body, "it is not kept, so it cannot be shown again"
    assert await api.pool.fetchval("select count(*) from access_keys") == 1


async def test_the_audit_log_shows_who_and_what_but_no_secrets(api: Api) -> None:
    secret = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="
    await api("PUT", "/channels/ops", {"kind": "webhook", "url": "https://example.org/very-secret", "secret": secret})
    await api("PUT", "/monitors/a", {"every": "1h", "keys": [{"signal": "fail", "key": "fail-key-of-a"}]})
    await api("PUT", "/monitors/a", {"every": "2h", "keys": []})
    shown = await api("GET", "/changes")
    text = str(shown.body)
    assert "very-secret" not in text and secret not in text and "fail-key-of-a" not in text
    latest = shown.body["items"][0]
    assert latest["actor"] == "admin" and latest["action"] == "change"
    assert {field["field"] for field in latest["fields"]} == {"every", "keys"}
    key = (await api("GET", "/monitors/a")).body["key"]
    assert key not in text


async def test_the_audit_log_holds_no_secrets(api: Api) -> None:
    """Not in the table either, from which a backup or a read-only role would have them."""
    secrets = [
        "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=",
        "whsec_YUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=",
        "very-secret",
        "another-secret",
        "header-secret",
        "fail-key-of-a",
    ]
    hook = {"kind": "webhook", "url": "https://example.org/very-secret", "secrets": secrets[:1]}
    await api("PUT", "/channels/ops", {**hook, "headers": {"X-Token": "header-secret"}})
    await api("PUT", "/channels/ops", {**hook, "secrets": secrets[1:2]})
    await api("POST", "/apply", {"channels": {"ops": {**hook, "url": "https://example.org/another-secret"}}})
    await api("POST", "/apply", {"channels": {}, "prune": True})
    await api("PUT", "/projects/shop", {"badges": True})
    shop = (await api("GET", "/projects/shop")).body
    await api("PUT", "/projects/shop", {"ping_key": "a-ping-key-that-is-new", "badges": True})
    await api("PUT", "/monitors/a", {"every": "1h", "keys": [{"signal": "fail", "key": "fail-key-of-a"}]})
    keys = [row["key"] for row in await api.pool.fetch("select key from keys")]
    await api("POST", "/monitors/a/pause")
    await api("DELETE", "/monitors/a")
    rows = await api.pool.fetch("select c::text as text from changes c order by rev")
    shown = (await api("GET", "/changes?limit=100")).body["items"]
    assert len(shown) == len(rows) == 10
    for secret in (*secrets, *keys, shop["ping_key"], "a-ping-key-that-is-new", shop["badge_key"]):
        assert secret and secret not in str(shown)
        assert not [row["text"] for row in rows if secret in row["text"]]
    changed = [change["fields"] for change in shown if change["kind"] == "channel" and change["action"] == "change"]
    assert {"field": "secrets", "old": "(hidden)", "new": "(hidden, changed)"} in changed[0], "that it changed is said"
    assert (await api("GET", "/changes?kind=project")).body["items"][0]["fields"][0]["field"] == "ping_key"


async def test_rows_of_an_older_version_are_shown_without_their_secrets(api: Api) -> None:
    await api.pool.execute(
        """insert into changes (project_id, actor, kind, subject, before, after) values
        (1, 'admin', 'channel', 'ops', null,
         '{"slug": "ops", "kind": "slack", "definition": {"url": "https://hooks.slack.com/services/OLDSECRET"}}'),
        (1, 'admin', 'project', 'default', null,
         '{"slug": "default", "name": "", "ping_key": "OLDSECRET", "definition": {"badge_key": "OLDSECRET"}}'),
        (1, 'admin', 'monitor', 'a', null, '{"slug": "a", "definition": {}, "keys": [
           {"key": "OLDSECRET", "main": true, "signal": null, "stage": null},
           {"key": "OLDSECRET", "main": false, "signal": "fail", "stage": null}]}')"""
    )
    shown = (await api("GET", "/changes")).body["items"]
    assert [change["subject"] for change in shown] == ["a", "default", "ops"]
    assert "OLDSECRET" not in str(shown)
