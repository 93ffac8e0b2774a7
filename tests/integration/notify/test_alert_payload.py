"""Every kind of alert, decided by a real scheduler and sent to a real receiver, is as the published schema says."""

from offbeat_server.common.instants import SECOND
from offbeat_server.db.read_models import history
from offbeat_server.db.scheduler_store import decision_rows, scheduler_rows
from offbeat_server.notify.messages.payload_schema import webhook_schema
from tests.support.channels import assert_published
from tests.support.harness import Receiver, eventually
from tests.support.outbox import Scene, types
from tests.support.servers.scheduler_node import running


async def test_every_kind_of_alert_is_as_published(world: Scene, receiver: Receiver, database_url: str) -> None:
    hook = await world.channel("hook", "webhook", url=receiver.url)
    broken = await world.channel("broken", "webhook", url="http://127.0.0.1:9/")
    await world.pool.execute("update channels set is_default = false where id = $1", broken)
    async with running(database_url) as node:
        # More alerts than are sent one by one become a digest; the dispatcher is not at work yet.
        for n in range(8):
            await node.ping(await node.monitor(f"small-{n}", every="1h"), "fail", message="disk full")
        await eventually(lambda: _waiting(world, hook, 8))
        async with world.dispatcher(start=False) as dispatcher:
            dispatcher.periodic.remind_every_s = dispatcher.periodic.catch_up_every_s = 0.1
            await dispatcher.start()
            await receiver.wait_for(lambda r: r.json["type"] == "offbeat.digest")

            job = await node.monitor(
                "etl",
                max_runtime="1s",
                remind_every="1h",
                tags=["night"],
                stages=[{"name": "extract"}, {"name": "load", "tasks": {"expected": 4}}],
            )
            for _ in range(3):  # as many successful runs as it takes to say what is usual
                await node.ping(job, "start")
                await node.ping(job, "success")
            await node.ping(job, "start", run="42")
            await node.ping(job, "start", run="42", stage="extract")
            await node.ping(job, "success", run="42", stage="extract")
            await node.ping(job, "start", run="42", stage="load", task="1")
            await node.ping(job, "progress", run="42", stage="load", task="1", done=3, total=9)
            await node.ping(job, "progress", run="42", done=1, total=2)
            opened = await receiver.wait_for(lambda r: r.json["type"] == "incident.opened")
            await node.ping(job, "fail", run="42", message="ValueError: boom")
            await receiver.wait_for(lambda r: r.json["type"] == "incident.worse")
            await world.settled()
            await world.pool.execute(
                "update alerts set settled_at = settled_at - interval '2 hours' where monitor_id = $1", job
            )
            await receiver.wait_for(lambda r: r.json["type"] == "incident.reminder")
            await node.ping(job, "success", run="43")
            resolved = await receiver.wait_for(lambda r: r.json["type"] == "incident.resolved")

            async with world.pool.acquire() as connection:
                outage = scheduler_rows.Outage(1, node.clock.now() - 60 * SECOND, node.clock.now(), "database", 3)
                await decision_rows.alert_operators(connection, scheduler_rows.outage_facts(outage))
            await receiver.wait_for(lambda r: r.json["data"].get("cause") == "deaf")
            await world.pool.execute(
                "update channels set failing_since = now(), updated_at = now() - interval '1 hour' where id = $1",
                broken,
            )
            await receiver.wait_for(lambda r: r.json["data"].get("cause") == "channel")
            await history.add_test_alert(world.pool, 1, hook, "admin")
            await receiver.wait_for(lambda r: r.json["type"] == "offbeat.test")

    for request in receiver.requests:
        assert_published(request.json)
    published = webhook_schema()["$defs"]
    named = [published[each["$ref"].rpartition("/")[2]]["properties"]["type"] for each in webhook_schema()["oneOf"]]
    assert set(types(receiver)) == {kind for each in named for kind in each.get("enum", [each.get("const")])}
    data = opened.json["data"]
    assert data["detail"]["stages"][1]["tasks"]["progress"][0]["done"] == 3 and data["usual"]
    assert resolved.json["data"]["resolution"] == "recovered"


async def _waiting(world: Scene, channel: int, count: int) -> bool:
    rows = await world.pool.fetchval("select count(*) from alerts where channel_id = $1", channel)
    return bool(rows == count)
