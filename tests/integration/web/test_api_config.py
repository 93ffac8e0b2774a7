"""Configuration files: applied completely or not at all, refused field by field, exported as they are read back."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from offbeat_server.common.clock import monotonic
from offbeat_server.web.api.schemas.responses import ApplyAnswer, ExportAnswer
from tests.support.servers.api_server import Api, serving

CONFIG: dict[str, Any] = {
    "projects": {"shop": {"name": "The shop", "metrics": True}},
    "channels": [
        {"slug": "ops", "kind": "webhook", "url": "https://example.org/hook"},
        {"slug": "shop-ops", "project": "shop", "kind": "webhook", "url": "https://example.org/shop", "default": False},
    ],
    "windows": {"sunday": {"cron": "0 2 * * sun", "duration": "4h", "tags": ["etl"]}},
    "monitors": {
        "load": {"after": {"monitor": "extract", "within": "1h"}, "channels": ["ops"]},
        "extract": {
            "cron": "0 3 * * *",
            "timezone": "Europe/Berlin",
            "keys": [{"signal": "start"}, {"signal": "fail"}],
        },
        "cart": {"project": "shop", "every": "1m", "tags": ["web"], "name": "Cart", "channels": ["shop-ops"]},
    },
}


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with serving(database_url) as api:
        yield api


async def test_a_config_file_is_applied_and_its_changes_are_listed(api: Api) -> None:
    dry = await api("POST", "/apply", {**CONFIG, "dry_run": True})
    assert dry.status == 200, dry.body
    assert dry.body["counts"] == {"created": 7, "changed": 0, "deleted": 0, "unchanged": 0}
    assert await api.pool.fetchval("select count(*) from monitors") == 0
    assert await api.pool.fetchval("select count(*) from changes") == 0
    assert api.changed == []

    done = await api("POST", "/apply", CONFIG)
    ApplyAnswer.model_validate(done.body)
    assert done.body["counts"] == dry.body["counts"]
    assert [(c["kind"], c["project"], c["slug"], c["action"]) for c in done.body["changes"]] == [
        ("project", "shop", "shop", "create"),
        ("channel", "default", "ops", "create"),
        ("channel", "shop", "shop-ops", "create"),
        ("window", "default", "sunday", "create"),
        ("monitor", "default", "load", "create"),
        ("monitor", "default", "extract", "create"),
        ("monitor", "shop", "cart", "create"),
    ]
    assert len(api.changed) == 1
    again = (await api("POST", "/apply", CONFIG)).body
    assert again["counts"] == {"created": 0, "changed": 0, "deleted": 0, "unchanged": 7}
    assert again["changes"] == []

    CONFIG2 = {"monitors": [{"slug": "extract", "cron": "0 4 * * *", "timezone": "Europe/Berlin"}]}
    changed = (await api("POST", "/apply", CONFIG2)).body
    assert changed["counts"]["changed"] == 1
    assert changed["changes"][0]["fields"] == [{"field": "cron", "old": "0 3 * * *", "new": "0 4 * * *"}]


async def test_pruning_deletes_what_is_not_listed_in_the_named_projects_only(api: Api) -> None:
    await api("POST", "/apply", CONFIG)
    await api("PUT", "/monitors/manual", {})
    monitors = {"load": {"every": "1h"}}
    answer = await api("POST", "/apply", {"monitors": monitors, "prune": True})
    assert answer.body["counts"] == {"created": 0, "changed": 1, "deleted": 2, "unchanged": 0}
    left = (await api("GET", "/monitors")).body["items"]
    assert [(m["project"], m["slug"]) for m in left] == [("default", "load"), ("shop", "cart")]
    assert len((await api("GET", "/channels")).body["items"]) == 4, "channels were not in the file"
    refused = await api("POST", "/apply", {"project": "shop", "channels": [], "prune": True})
    assert refused.status == 422 and "named by cart" in refused.body["errors"][0]["reason"]
    both = await api("POST", "/apply", {"project": "shop", "channels": [], "monitors": [], "prune": True})
    assert both.body["counts"]["deleted"] == 2
    assert [c["slug"] for c in (await api("GET", "/channels?project=shop")).body["items"]] == ["log"]


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_key_of_one_project_prunes_no_other(api: Api, dry_run: bool) -> None:
    """A file without items still names a project."""
    await api("PUT", "/projects/shop", {})
    await api("PUT", "/monitors/mine?project=shop", {})
    await api("PUT", "/monitors/theirs", {})
    key = (await api("POST", "/keys", {"name": "shop", "role": "admin", "project": "shop"})).body["key"]
    empty = {"monitors": [], "channels": [], "windows": [], "prune": True, "dry_run": dry_run}
    refused = await api("POST", "/apply", {**empty, "project": "default"}, key=key)
    assert refused.status == 422 and [error["field"] for error in refused.body["errors"]] == ["project"]
    assert "theirs" not in str(refused.body)
    own = await api("POST", "/apply", empty, key=key)
    assert [each["slug"] for each in own.body["changes"]] == ["mine"]
    assert (await api("GET", "/monitors/theirs")).status == 200


async def test_what_is_wrong_says_what_to_write(api: Api) -> None:
    for body, field, reason in (
        (
            {"monitors": {"a": {"slug": "b", "every": "1h"}}},
            "monitors.a.slug",
            "must be 'a', as its entry is named, not 'b': correct it or leave it out",
        ),
        (
            {"channels": {"a": {"slug": "b", "kind": "log"}}},
            "channels.a.slug",
            "must be 'a', as its entry is named, not 'b': correct it or leave it out",
        ),
        ({"monitors": {"A B": {"every": "1h"}}}, "monitors.A B.slug", "must be 1 to 100 of a-z"),
        ({"monitors": {"a": {"key": "x y"}}}, "monitors.a.key", "without spaces"),
        ({"Monitors": {}}, "Monitors", "use monitors"),
        ({"monitors": {"a": {"period": "5m"}}}, "monitors.a.period", "use every"),
    ):
        refused = await api("POST", "/apply", body)
        (error,) = refused.body["errors"]
        assert refused.status == 422 and error["field"] == field and reason in error["reason"], error
    assert (await api("POST", "/apply", {"monitors": {"a": {"slug": "a"}}, "dry_run": True})).status == 200
    assert (await api("GET", "/monitors?limit=0")).body["detail"] == "limit: must be at least 1"


async def test_a_wrong_item_refuses_the_whole_and_is_named(api: Api) -> None:
    answer = await api(
        "POST",
        "/apply",
        {
            "channels": {"ops": {"kind": "webhook", "url": "nonsense"}},
            "monitors": {"a": {"every": "1h"}, "b.c": {"every": "soon", "grace": -1}, "Bad Slug": {}},
        },
    )
    assert answer.status == 422
    assert {error["field"] for error in answer.body["errors"]} == {
        *("monitors.b.c.every", "monitors.b.c.grace", "monitors.Bad Slug.slug"),
    }
    for body, field in (
        ({"channels": {"ops": {"kind": "webhook", "url": "nonsense"}}}, "channels.ops.url"),
        ({"channels": {"ops": {"kind": "pigeon"}}}, "channels.ops.kind"),
        ({"channels": [{"slug": "a", "kind": "log"}, {"slug": "a", "kind": "log"}]}, "channels.a"),
        ({"windows": {"w": {"cron": "* * * * *"}}}, "windows.w"),
        ({"monitors": [{"every": "1h"}]}, "monitors.0.slug"),
        ({"monitors": [{"slug": "a"}, {"slug": "a"}]}, "monitors.a.slug"),
        ({"monitors": {"a": {"depends_on": ["nobody"]}}}, "monitors.a.depends_on.0"),
        ({"monitors": {"a": {"depends_on": ["b"]}, "b": {"depends_on": ["a"]}}}, "monitors.a.depends_on"),
        ({"monitors": {"a": {"project": "nowhere"}}}, "monitors.a.project"),
        ({"monitors": {"a": {"key": "k"}, "b": {"key": "k"}}}, "monitors.b.key"),
        ({"monitors": "a"}, "monitors"),
        ({"monitors": {"a": 1}}, "monitors"),
        ({"project": "nowhere", "monitors": {"a": {}}}, "project"),
        ({"monitor": {}}, "monitor"),
    ):
        answer = await api("POST", "/apply", body)
        assert answer.status == 422, (body, answer)
        assert field in {error["field"] for error in answer.body["errors"]}, answer.body
    assert await api.pool.fetchval("select count(*) from changes") == 0


async def test_an_export_is_read_back_unchanged(api: Api) -> None:
    await api("POST", "/apply", CONFIG)
    await api("POST", "/monitors/load/pause")
    exported = (await api("GET", "/export")).body
    ExportAnswer.model_validate(exported)
    unchanged = (await api("POST", "/apply", {**exported, "prune": True})).body
    assert unchanged["changes"] == []
    assert unchanged["counts"]["unchanged"] == 2 + 4 + 1 + 3

    keys = {m["slug"]: m["key"] for m in exported["monitors"]}
    await api.pool.execute("delete from monitors")
    restored = (await api("POST", "/apply", exported)).body
    assert restored["counts"]["created"] == 3
    again = (await api("GET", "/export")).body
    assert again == exported, "also the keys, so that no crontab has to change"
    assert {m["slug"]: m["key"] for m in again["monitors"]} == keys


async def test_ten_thousand_monitors_in_one_request(api: Api) -> None:
    monitors = {
        f"job-{n:05}": {
            "cron": f"{n % 60} {n % 24} * * *",
            "grace": "10m",
            "tags": [f"team-{n % 7}"],
            "name": f"Job {n}",
        }
        for n in range(10_000)
    }
    took_s = []
    for count in (1_000, 10_000):
        started_s = monotonic()
        answer = await api("POST", "/apply", {"monitors": dict(list(monitors.items())[:count])})
        assert answer.status == 200, str(answer.body)[:500]
        took_s.append(monotonic() - started_s)
    assert answer.body["counts"]["created"] == 9_000
    assert took_s[1] < 40 * took_s[0], "each costs about as much as if it were alone"
    assert await api.pool.fetchval("select count(*) from keys") == 10_000
    revs = await api.pool.fetch("select m.rev, c.rev as change from monitors m join changes c on c.monitor_id = m.id")
    assert all(row["rev"] == row["change"] for row in revs)

    again = await api("POST", "/apply", {"monitors": monitors})
    assert again.body["counts"]["unchanged"] == 10_000
    page = await api("GET", "/monitors?limit=1000&status=up")
    assert page.body["items"] == []
    assert len((await api("GET", "/monitors?limit=1000&status=new")).body["items"]) == 1000


async def test_a_file_may_use_the_former_name_of_count_outages(api: Api) -> None:
    done = await api("POST", "/apply", {"monitors": {"a": {"every": "1m", "strict": True}}})
    assert {"field": "count_outages", "old": None, "new": True} in done.body["changes"][0]["fields"]
    again = await api("POST", "/apply", {"monitors": {"a": {"every": "1m", "count_outages": True}}})
    assert again.body["counts"]["unchanged"] == 1
    both = await api("POST", "/apply", {"monitors": {"a": {"every": "1m", "strict": True, "count_outages": False}}})
    assert both.status == 422 and [error["field"] for error in both.body["errors"]] == ["monitors.a.strict"]
