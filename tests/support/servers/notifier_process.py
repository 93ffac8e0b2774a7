"""A dispatcher as a process, for the tests that kill it: `python -m tests.support.servers.notifier_process URL [PLACE
[PASSES]]`.

Works until it is killed, by the place in it that is armed or from outside.
"""

import asyncio
import sys

from offbeat_server.common import failpoints
from tests.support.outbox import scene


async def work(url: str) -> None:
    async with scene(url) as world, world.dispatcher(node="process", start=False) as dispatcher:
        dispatcher.pulse_s = 0.2
        await dispatcher.start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        failpoints.arm(sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    asyncio.run(work(sys.argv[1]))
