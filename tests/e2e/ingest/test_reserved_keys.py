"""A project cannot receive the pings of another one by an added key that begins with the other's ping key."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from offbeat_server.db.repositories.definitions import RESERVED
from offbeat_server.db.repositories.key_index_rows import KeyIndexRows
from offbeat_server.ingest.key_index import KeyIndex
from tests.support.clients.command import offbeat
from tests.support.harness import Server
from tests.support.servers.api_server import Api, serving

VICTIM_KEY = "victims-own-ping-key"
ADD_KEY = "insert into keys (monitor_id, project_id, key) select id, project_id, $1 from monitors where slug = 'trap'"
FORMS = (VICTIM_KEY, f"{VICTIM_KEY}/newjob")


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with serving(database_url) as api:
        await api("PUT", "/projects/victim", {"ping_key": VICTIM_KEY})
        await api("PUT", "/projects/attacker", {})
        yield api


@pytest.mark.parametrize("key", FORMS)
async def test_a_key_that_begins_with_another_projects_ping_key_is_refused(api: Api, key: str) -> None:
    for body, field in (({"keys": [{"key": key}]}, "keys.0.key"), ({"key": key}, "key")):
        refused = await api("PUT", "/monitors/trap?project=attacker", {"every": "1h", **body})
        assert refused.status == 422, key
        assert refused.body["errors"] == [{"field": field, "reason": RESERVED}]
    monitor = {"slug": "trap", "project": "attacker", "every": "1h", "keys": [{"key": key, "signal": "fail"}]}
    applied = await api("POST", "/apply", {"monitors": [monitor]})
    assert applied.status == 422 and applied.body["errors"][0]["reason"] == RESERVED
    assert (await api("GET", "/monitors?project=attacker")).body["items"] == []
    own = await api("PUT", "/monitors/own?project=victim", {"every": "1h", "keys": [{"key": key}]})
    assert own.status == 201, "in its own project it takes nothing away"


async def test_other_keys_may_begin_with_the_same_letters(api: Api) -> None:
    body = {"every": "1h", "keys": [{"key": f"{VICTIM_KEY}-2"}, {"key": f"x/{VICTIM_KEY}"}]}
    assert (await api("PUT", "/monitors/other?project=attacker", body)).status == 201


@pytest.mark.parametrize("key", ["foreign-service-key", "foreign-service-key/job"])
async def test_a_ping_key_that_hides_keys_of_others_is_refused(api: Api, key: str) -> None:
    assert (await api("PUT", "/monitors/a?project=victim", {"every": "1h", "keys": [{"key": key}]})).status == 201
    for slug in ("attacker", "brand-new"):
        refused = await api("PUT", f"/projects/{slug}", {"ping_key": "foreign-service-key"})
        assert refused.status == 422 and refused.body["errors"][0]["field"] == "ping_key"
    applied = await api("POST", "/apply", {"projects": [{"slug": "attacker", "ping_key": "foreign-service-key"}]})
    assert applied.status == 422
    assert (await api("PUT", "/projects/victim", {"ping_key": "foreign-service-key"})).status == 200


async def test_a_key_that_was_added_before_takes_no_pings(api: Api) -> None:
    created = await api("PUT", "/monitors/trap?project=attacker", {"every": "1h"})
    assert created.status == 201
    await api.pool.execute(ADD_KEY, f"{VICTIM_KEY}/newjob")
    key_index = KeyIndex(KeyIndexRows(api.pool))
    await key_index.start()
    try:
        assert key_index.find_slug(VICTIM_KEY, "newjob") is None
    finally:
        await key_index.stop()


async def test_doctor_finds_what_is_not_watched_and_keys_that_are_hidden(database_url: str) -> None:
    async with Server(database_url) as server:
        await server.api("PUT", "/api/v1/projects/victim", {"ping_key": VICTIM_KEY})
        await server.api("PUT", "/api/v1/monitors/trap", {})
        connection = await asyncpg.connect(database_url)
        await connection.execute(ADD_KEY, f"{VICTIM_KEY}/newjob")
        await connection.close()
        doctor = await offbeat("doctor", url=server.url)
        assert doctor.code == 1
        report = " ".join(doctor.out.split())
        assert "a key of default/trap begins with the ping key of victim: remove it" in report
        assert "1 expect nothing, so no missing ping is noticed: trap" in report
