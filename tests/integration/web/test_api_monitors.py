"""Monitors through the API: what is stored, what is shown, what is refused, and what a change leaves behind."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from offbeat_server.engine.rules import reasons
from offbeat_server.web.api.schemas.responses import MonitorAnswer
from offbeat_server.web.framework import ttl_cache
from tests.support.servers.api_server import Api, serving


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with serving(database_url) as api:
        yield api


@pytest.mark.quick
async def test_a_monitor_is_created_shown_changed_and_deleted(api: Api) -> None:
    created = await api("PUT", "/monitors/backup", {"cron": "0 3 * * *", "timezone": "Europe/Berlin", "grace": "15m"})
    assert created.status == 201
    MonitorAnswer.model_validate(created.body)
    assert created.body["status"] == "new"
    assert created.body["name"] == "backup"
    assert created.body["cron"] == "0 3 * * *" and created.body["grace"] == "15m"
    assert created.body["ping_url"].endswith("/api/v1/heartbeat/" + created.body["key"])
    assert created.body["last_ping_at"] is None and created.body["due_at"] is None and created.body["open_runs"] == 0
    assert created.headers["ETag"] == f'"{created.body["rev"]}"'
    assert len(api.changed) == 1

    changed = await api("PUT", "/monitors/backup", {"every": "1h", "name": "The backup", "tags": ["db"]})
    assert changed.status == 200
    assert changed.body["cron"] is None and changed.body["every"] == "1h"
    assert changed.body["key"] == created.body["key"], "a key that is not named stays"
    assert changed.body["rev"] > created.body["rev"]

    same = await api("PUT", "/monitors/backup", {"every": 3600, "name": "The backup", "tags": ["db"]})
    assert same.body["rev"] == changed.body["rev"], "what is as wanted is not written"
    assert len(api.changed) == 2

    assert (await api("GET", "/monitors/backup")).body == same.body
    assert (await api("DELETE", "/monitors/backup")).status == 204
    assert (await api("GET", "/monitors/backup")).status == 404
    assert (await api("DELETE", "/monitors/backup")).status == 404


async def test_the_row_of_a_change_holds_all_that_the_scheduler_needs(api: Api) -> None:
    await api("PUT", "/monitors/a", {"every": "1m", "tags": ["x"]})
    await api("POST", "/monitors/a/pause")
    await api("POST", "/monitors/a/snooze", {"until": "2030-01-01T00:00:00Z"})
    await api("DELETE", "/monitors/a")
    rows = await api.pool.fetch("select * from changes order by rev")
    assert [row["kind"] for row in rows] == ["monitor", "pause", "snooze", "monitor"]
    first = rows[0]
    assert first["before"] is None and first["actor"] == "admin" and first["subject"] == "a"
    after = first["after"]
    assert after["definition"] == {"every": "1m"} and after["tags"] == ["x"] and after["name"] == "a"
    assert datetime.fromisoformat(after["created_at"]).tzinfo is not None
    assert rows[1]["before"] == after and rows[1]["after"] == {**after, "paused": True}
    assert rows[2]["after"]["snoozed_until"] == "2030-01-01T00:00:00+00:00"
    assert rows[3]["before"] == rows[2]["after"] and rows[3]["after"] is None
    assert {row["monitor_id"] for row in rows} == {first["monitor_id"]}


@pytest.mark.quick
async def test_a_wrong_definition_is_refused_whole_and_each_field_is_named(api: Api) -> None:
    wrong = {"every": "1m", "cron": "* * *", "grace": "soon", "stages": [{"name": "a", "within": -1}], "typo": 1}
    answer = await api("PUT", "/monitors/a", wrong)
    assert answer.status == 422
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert {error["field"] for error in answer.body["errors"]} == {"cron", "grace", "stages.0.within", "typo"}
    assert "five fields" in next(e["reason"] for e in answer.body["errors"] if e["field"] == "cron")
    assert await api.pool.fetchval("select count(*) from monitors") == 0

    for body, field in (
        ({"channels": ["nowhere"]}, "channels.0"),
        ({"every": "1m", "depends_on": ["nobody"]}, "depends_on.0"),
        ({"after": {"monitor": "nobody", "within": "1m"}}, "after.monitor"),
        ({"depends_on": ["a"]}, "depends_on"),
        ({"key": "a?b"}, "key"),
        ({"keys": [{"key": "x" * 201}]}, "keys.0.key"),
        ({"keys": [{"key": "same"}, {"key": "same"}]}, "keys.1.key"),
        ({"name": "a\x00b"}, ""),
    ):
        answer = await api("PUT", "/monitors/a", body)
        assert answer.status == 422, body
        assert field in {error["field"] for error in answer.body["errors"]}, answer.body
    assert await api.pool.fetchval("select count(*) from monitors") == 0
    assert await api.pool.fetchval("select count(*) from changes") == 0
    assert (await api("PUT", "/monitors/Not%20A%20Slug", {})).status == 422


async def test_cycles_are_refused_and_named(api: Api) -> None:
    for slug, others in (("a", []), ("b", ["a"]), ("c", ["b"])):
        assert (await api("PUT", f"/monitors/{slug}", {"every": "1m", "depends_on": others})).status == 201
    answer = await api("PUT", "/monitors/a", {"every": "1m", "depends_on": ["c"]})
    assert answer.status == 422
    assert "a → c → b → a" in answer.body["errors"][0]["reason"]
    answer = await api("DELETE", "/monitors/a")
    assert answer.status == 409 and "b refers to a" in answer.body["detail"]
    assert (await api("DELETE", "/monitors/c")).status == 204


async def test_keys_beside_the_main_one(api: Api) -> None:
    body = {"keys": [{"signal": "start", "stage": "extract"}, {"signal": "fail", "key": "old-hc/backup"}, {"key": "x"}]}
    created = (await api("PUT", "/monitors/etl", body)).body
    keys = {(key["signal"], key["stage"]): key["key"] for key in created["keys"]}
    assert keys["fail", None] == "old-hc/backup" and keys[None, None] == "x"
    urls = {key["key"]: key["ping_url"] for key in created["keys"]}
    assert urls["old-hc/backup"].endswith("/ping/old-hc/backup")
    assert urls["x"].endswith("/api/v1/heartbeat/x")

    again = (await api("PUT", "/monitors/etl", body)).body
    assert again["keys"] == created["keys"] and again["rev"] == created["rev"], (
        "a generated key is kept for its signal and stage"
    )
    assert (await api("PUT", "/monitors/etl", {})).body["keys"] == created["keys"], "not named: they stay"

    moved = (await api("PUT", "/monitors/etl", {"keys": [{"signal": "success", "key": "x"}]})).body
    assert moved["keys"] == [{"key": "x", "ping_url": urls["x"], "signal": "success", "stage": None}]

    taken = await api("PUT", "/monitors/other", {"keys": [{"key": "x"}], "key": created["key"]})
    assert taken.status == 422
    assert {error["field"] for error in taken.body["errors"]} == {"keys.0.key", "key"}
    promoted = (await api("PUT", "/monitors/etl", {"key": "x", "keys": []})).body
    assert promoted["key"] == "x" and promoted["keys"] == []
    assert (await api("PUT", "/monitors/other", {"key": created["key"]})).status == 201, "the old one is free now"


async def test_what_is_shown_is_true_for_this_instant(api: Api) -> None:
    await api("PUT", "/monitors/a", {"every": "1h", "grace": "10m"})
    at = datetime.now(UTC) - timedelta(minutes=30)
    await api.ping("a", at=at)
    await api.ping("a", "log", at=at + timedelta(minutes=5))
    shown = (await api("GET", "/monitors/a")).body
    assert shown["status"] == "up"
    assert instant(shown["last_ping_at"]) == at + timedelta(minutes=5) and shown["last_signal"] == "log"
    assert instant(shown["due_at"]) == at + timedelta(hours=1)
    assert instant(shown["deadline_at"]) == at + timedelta(hours=1, minutes=10)

    await api("PUT", "/monitors/a", {"every": "20m", "grace": "1h"})
    shown = (await api("GET", "/monitors/a")).body
    assert shown["status"] == "late", "due ten minutes ago"
    assert (await api("POST", "/monitors/a/pause")).body["status"] == "paused"
    assert [m["slug"] for m in (await api("GET", "/monitors?status=paused")).body["items"]] == ["a"]


async def test_a_monitor_whose_alerts_reach_no_person_says_so(api: Api) -> None:
    created = (await api("PUT", "/monitors/a", {"every": "1h"})).body
    assert created["channels"] is None and created["alerts_to"] == ["log"] and "No channel" in created["warnings"][0]
    assert (await api("PUT", "/channels/ops", {"kind": "webhook", "url": "https://example.org"})).status == 201
    shown = (await api("GET", "/monitors/a")).body
    assert shown["alerts_to"] == ["log", "ops"] and shown["warnings"] == []
    silent = (await api("PUT", "/monitors/a", {"every": "1h", "channels": []})).body
    assert silent["alerts_to"] == [] and silent["warnings"]
    named = (await api("PUT", "/monitors/a", {"every": "1h", "channels": ["ops"]})).body
    assert named["channels"] == ["ops"] and named["warnings"] == []
    refused = await api("DELETE", "/channels/ops")
    assert refused.status == 409 and "named by a" in refused.body["detail"]


@pytest.mark.quick
async def test_lists_come_in_pages_and_can_be_narrowed(api: Api) -> None:
    await api("POST", "/apply", {"monitors": {f"m{n:02}": {"every": "1h", "tags": [f"t{n % 2}"]} for n in range(12)}})
    await api.ping("m03")
    await api.ping("m04", at=datetime.now(UTC) - timedelta(hours=1, seconds=5))
    await api("POST", "/monitors/m05/pause")

    async def slugs(query: str) -> list[str]:
        listed, cursor, pages = [], "", 0
        while True:
            answer = await api("GET", f"/monitors?{query}{cursor}")
            assert answer.status == 200, answer.body
            listed += [monitor["slug"] for monitor in answer.body["items"]]
            pages += 1
            if answer.body["next_cursor"] is None:
                return listed
            assert pages < 50
            cursor = "&cursor=" + answer.body["next_cursor"]

    everything = [f"m{n:02}" for n in range(12)]
    for limit in (1, 5, 12, 100):
        assert await slugs(f"limit={limit}") == everything
    assert await slugs("limit=2&tag=t1") == everything[1::2]
    assert await slugs("q=M0") == everything[:10]
    assert await slugs("status=up") == ["m03"]
    assert await slugs("status=late") == ["m04"]
    assert await slugs("limit=1&status=late&status=up&status=paused") == ["m03", "m04", "m05"]
    assert await slugs("limit=3&status=new") == [s for s in everything if s not in ("m03", "m04", "m05")]
    for wrong in ("limit=0", "limit=x", "cursor=nonsense", "status=dead", "colour=red", "limit=1&limit=2"):
        answer = await api("GET", f"/monitors?{wrong}")
        assert answer.status == 422 and answer.body["errors"], wrong


async def test_a_list_that_changes_while_it_is_read_shows_what_stays_once(api: Api) -> None:
    await api("POST", "/apply", {"monitors": {f"m{n:02}": {"every": "1h"} for n in range(24)}})
    listed, cursor = [], ""
    while True:
        page = (await api("GET", f"/monitors?limit=7{cursor}")).body
        listed += [monitor["slug"] for monitor in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = "&cursor=" + page["next_cursor"]
        if len(listed) == 7:  # what was shown, what would be shown next, and one that comes
            for slug in ("m06", "m07"):
                assert (await api("DELETE", f"/monitors/{slug}")).status == 204
            assert (await api("PUT", "/monitors/m03-new", {"every": "1h"})).status == 201
    assert listed == [f"m{n:02}" for n in range(24) if n != 7]


async def test_pings_are_listed_newest_first_with_all_their_fields(api: Api) -> None:
    await api("PUT", "/monitors/a", {})
    at = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    for number in range(5):
        await api.ping("a", "progress", at=at + timedelta(seconds=number), done=number, run="r1", message="é")
    await api.ping("a", "fail", at=at + timedelta(seconds=9), exit_code=3, duration=1.5, stage="s", task="t")
    first = (await api("GET", "/monitors/a/pings?limit=2")).body
    assert first["items"][0]["signal"] == "fail" and first["items"][0]["exit_code"] == 3
    assert set(first["items"][0]) >= {
        *("at", "signal", "run", "stage", "task", "done", "total", "exit_code", "duration", "message"),
    }
    rest = (await api("GET", f"/monitors/a/pings?cursor={first['next_cursor']}")).body
    assert [ping["done"] for ping in first["items"][1:] + rest["items"]] == [4, 3, 2, 1, 0]
    assert rest["next_cursor"] is None
    assert len((await api("GET", "/monitors/a/pings?signal=fail")).body["items"]) == 1
    assert len((await api("GET", "/monitors/a/pings?run=r1")).body["items"]) == 5
    until = (at + timedelta(seconds=2)).isoformat().replace("+00:00", "Z")
    assert len((await api("GET", f"/monitors/a/pings?until={until}")).body["items"]) == 3
    assert (await api("GET", "/monitors/nobody/pings")).status == 404


async def test_only_what_was_read_is_replaced(api: Api) -> None:
    tag = (await api("PUT", "/monitors/a", {}, headers={"If-None-Match": "*"})).headers["ETag"]
    assert (await api("PUT", "/monitors/a", {}, headers={"If-None-Match": "*"})).status == 412
    assert (await api("PUT", "/monitors/a", {"every": "1m"}, headers={"If-Match": tag})).status == 200
    for stale in (tag, 'W/"1"', "nonsense"):
        assert (await api("PUT", "/monitors/a", {"every": "2m"}, headers={"If-Match": stale})).status == 412
    assert (await api("DELETE", "/monitors/a", headers={"If-Match": tag})).status == 412
    assert (await api("GET", "/monitors/a")).body["every"] == "1m"
    assert (await api("PUT", "/monitors/b", {}, headers={"If-Match": "*"})).status == 412
    assert (await api("DELETE", "/monitors/a", headers={"If-Match": "*"})).status == 204


async def test_creation_may_be_repeated_with_an_idempotency_key(api: Api) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await api("POST", "/monitors", {"name": "Nightly backup"}, headers=headers)
    assert first.status == 201 and first.body["slug"] == "nightly-backup"
    again = await api("POST", "/monitors", {"name": "Nightly backup"}, headers=headers)
    assert again.status == 201 and again.body["rev"] == first.body["rev"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (await api("POST", "/monitors", {"name": "Other"}, headers=headers)).status == 422
    assert (await api("POST", "/monitors", {"name": "Nightly backup"})).status == 412
    assert (await api("POST", "/monitors", {"name": "!"})).status == 422


async def test_a_ping_by_slug_is_handed_to_the_log(api: Api) -> None:
    await api("PUT", "/monitors/a", {})
    assert (await api("POST", "/monitors/a/ping")).status == 204
    assert (await api("POST", "/monitors/a/ping", {"signal": "fail", "exit_code": 2})).status == 204
    assert [(ping.signal, ping.exit_code) for _, _, ping in api.pings] == [("success", None), ("fail", 2)]
    assert (await api("POST", "/monitors/a/ping", {"exit_code": 2**32})).status == 422


async def test_addresses_behind_a_proxy(database_url: str) -> None:
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "beats.example.org"}
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "http://127.0.0.1:"),
        ({"trusted_proxies": "127.0.0.0/8,::1"}, "https://beats.example.org/"),
        ({"trusted_proxies": "10.0.0.0/8"}, "http://127.0.0.1:"),
        ({"public_url": "https://public.example.org/"}, "https://public.example.org/api/"),
    ]
    for settings, expected in cases:
        async with serving(database_url, **settings) as api:
            answer = await api("PUT", "/monitors/a", {}, headers=forwarded)
            assert answer.body["ping_url"].startswith(expected)


def instant(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


async def test_series_and_badges_are_shown_where_a_project_wants_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ttl_cache, "FRESH_S", 600.0)
    await api("PUT", "/monitors/a", {"every": "1h", "tags": ["db"]})
    await api("PUT", "/monitors/b", {"every": "1h", "tags": ["db", "web"]})
    at = datetime.now(UTC) - timedelta(hours=1, seconds=30)
    await api.ping("a", at=at)
    await api.ping("b")
    assert (await api("GET", "/projects/default/metrics")).status == 404, "off until it is switched on"
    project = (await api("PUT", "/projects/default", {"metrics": True, "badges": True})).body
    shown = await api("GET", "/projects/default/metrics")
    assert shown.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(shown.body)}
    late = {sample.labels["monitor"]: sample.value for sample in families["offbeat_monitor_late"].samples}
    assert late == {"a": 1, "b": 0}
    last = {s.labels["monitor"]: s.value for s in families["offbeat_monitor_last_ping_timestamp_seconds"].samples}
    assert last["a"] == pytest.approx(at.timestamp())
    assert (await api("GET", "/projects/default/metrics", key=None)).status == 401

    badges = f"/badges/{project['badge_key']}"
    badge = await api("GET", f"{badges}/b.svg", key=None)
    assert badge.headers["Content-Type"].startswith("image/svg+xml") and ">up</text>" in badge.body
    as_json = await api("GET", f"{badges}/b.json", key=None)
    assert badge.headers["Cache-Control"] == as_json.headers["Cache-Control"] == "no-store", "a cache would show it up"
    assert (await api("GET", f"{badges}/a.json", key=None)).body["message"] == "late"
    assert (await api("GET", f"{badges}/tags/db.json", key=None)).body["message"] == "1 of 2 late"
    assert (await api("GET", f"{badges}/tags/web.json", key=None)).body["message"] == "up"
    assert (await api("GET", f"{badges}/tags/all.json", key=None)).body["label"] == "Default"
    await api("PUT", "/monitors/new", {"tags": ["web"]})
    assert (await api("GET", f"{badges}/tags/web.json", key=None)).body["message"] == "up", "as it was found out"
    for path in ("/badges/wrong/a.svg", f"{badges}/c.svg", f"{badges}/a.png", f"{badges}/tags/none.svg"):
        assert (await api("GET", path, key=None)).status == 404
    await api("PUT", "/projects/default", {})
    assert (await api("GET", f"{badges}/b.svg", key=None)).status == 404


async def test_a_monitor_that_expects_nothing_is_unwatched_and_not_up(api: Api) -> None:
    await api("PUT", "/channels/ops", {"kind": "webhook", "url": "https://example.org"})
    created = (await api("PUT", "/monitors/a", {"grace": "1h"})).body
    assert created["status"] == "unwatched" and created["warnings"] == [reasons.EXPECTS_NOTHING]
    await api.ping("a")
    await api("PUT", "/monitors/b", {"every": "1h"})
    await api.ping("b")
    assert (await api("GET", "/monitors/a")).body["status"] == "unwatched", "also after a ping"
    assert [m["slug"] for m in (await api("GET", "/monitors?status=unwatched")).body["items"]] == ["a"]
    assert [m["slug"] for m in (await api("GET", "/monitors?status=up")).body["items"]] == ["b"]
    wrong = await api("GET", "/monitors?status=ok")
    assert wrong.status == 422 and "'unwatched'" in wrong.body["errors"][0]["reason"]

    project = (await api("PUT", "/projects/default", {"metrics": True, "badges": True})).body
    families = {f.name: f for f in text_string_to_metric_families((await api("GET", "/projects/default/metrics")).body)}
    unwatched = {each.labels["monitor"]: each.value for each in families["offbeat_monitor_unwatched"].samples}
    assert unwatched == {"a": 1, "b": 0}
    badge = (await api("GET", f"/badges/{project['badge_key']}/a.json", key=None)).body
    assert (badge["message"], badge["color"]) == ("unwatched", "#616161")

    watched = (await api("PUT", "/monitors/a", {"every": "1h"})).body
    assert watched["status"] == "up" and watched["warnings"] == [], "the definition counts, not what was stored before"


async def test_a_monitor_with_an_open_run_and_no_limit_warns(api: Api) -> None:
    await api("PUT", "/channels/ops", {"kind": "webhook", "url": "https://example.org"})
    await api("PUT", "/monitors/a", {"cron": "0 2 * * *"})
    assert (await api("GET", "/monitors/a")).body["warnings"] == []
    await api.pool.execute(
        "insert into runs (monitor_id, project_id, number, started_at, last_ping_at)"
        " select id, project_id, 1, now(), now() from monitors"
    )
    assert (await api("GET", "/monitors/a")).body["warnings"] == [reasons.NO_RUN_LIMIT]
    await api("PUT", "/monitors/a", {"cron": "0 2 * * *", "max_runtime": "1h"})
    assert (await api("GET", "/monitors/a")).body["warnings"] == []


async def test_stages_may_be_given_as_their_names(api: Api) -> None:
    created = await api(
        "PUT", "/monitors/etl", {"stages": ["extract", "transform", {"name": "load", "optional": True}]}
    )
    assert created.status == 201 and [stage["name"] for stage in created.body["stages"]] == [
        "extract",
        "transform",
        "load",
    ]
    assert created.body["stages"][2]["optional"] is True
    refused = await api("PUT", "/monitors/etl", {"stages": ["extract", 2]})
    assert refused.status == 422 and refused.body["errors"][0]["field"] == "stages.1"
    assert refused.body["errors"][0]["reason"] == "must be a name or an object with a name, not 2"


@pytest.mark.parametrize(
    ("path", "raw", "detail"),
    [
        ("/monitors/a", b'{"every": "1h",\n"every": "2h"}', "line 2: the key 'every' is given twice, first in line 1"),
        ("/monitors/twice", b'{"after": {"monitor": "a", "monitor": "b", "within": "1h"}}', "'monitor' is given twice"),
    ],
)  # fmt: skip
async def test_a_body_that_says_two_things_is_refused(api: Api, path: str, raw: bytes, detail: str) -> None:
    headers = {"Content-Type": "application/json"}
    refused = await api("PUT", path, data=raw, headers=headers)
    assert refused.status == 400 and detail in refused.body["detail"], refused.body
    assert (await api("GET", path)).status == 404


async def test_a_placeholder_in_a_secret_is_refused(api: Api) -> None:
    url = "https://hooks.example.org/x"
    for body, field in (
        ({"kind": "webhook", "url": "https://hooks.example.org/${HOOK_PATH}"}, "url"),
        ({"kind": "webhook", "url": url, "headers": {"Authorization": "Bearer ${HOOK_TOKEN}"}}, "headers"),
        ({"kind": "slack", "url": "https://hooks.slack.com/${A}"}, "url"),
        ({"kind": "email", "to": ["a@b.example"], "host": "h", "user": "u", "password": "${PASSWORD}"}, "password"),
        ({"kind": "telegram", "chat": 1, "token": "${TOKEN:-none}"}, "token"),
        ({"kind": "alertmanager", "urls": ["https://a.example.org", "https://${AM}"]}, "urls"),
    ):  # fmt: skip
        refused = await api("PUT", "/channels/hook", body)
        assert refused.status == 422 and [each["field"] for each in refused.body["errors"]] == [field], refused.body
        assert "which would be sent as it is" in refused.body["detail"]
    kept = {"kind": "webhook", "url": url, "body": '{"t": {{title|json}}, "shell": "${HOME}"}'}
    assert (await api("PUT", "/channels/hook", kept)).status == 201
    refused = await api("PUT", "/monitors/m", {"every": "1h", "key": "${KEY}"})
    assert refused.status == 422 and "was not replaced" in refused.body["detail"]


async def test_count_outages_has_a_former_name_that_is_read_and_shown_too(api: Api) -> None:
    created = await api("PUT", "/monitors/a", {"every": "1m", "strict": True})
    assert created.status == 201 and created.body["count_outages"] is True and created.body["strict"] is True
    MonitorAnswer.model_validate(created.body)
    assert await api.pool.fetchval("select definition from monitors") == {"every": "1m", "strict": True}
    for same in ({"count_outages": True}, {"strict": True, "count_outages": True}):
        assert (await api("PUT", "/monitors/a", {"every": "1m", **same})).body["rev"] == created.body["rev"]
    both = await api("PUT", "/monitors/a", {"every": "1m", "strict": True, "count_outages": False})
    assert both.status == 422 and [error["field"] for error in both.body["errors"]] == ["strict"]
    assert "count_outages" in both.body["errors"][0]["reason"]
    [exported] = (await api("GET", "/export")).body["monitors"]
    assert exported["count_outages"] is True and "strict" not in exported
    off = await api("PUT", "/monitors/a", {"every": "1m"})
    assert off.body["count_outages"] is False and off.body["strict"] is False
    [newest, *_] = (await api("GET", "/changes")).body["items"]
    assert newest["fields"] == [{"field": "count_outages", "old": True, "new": None}]
