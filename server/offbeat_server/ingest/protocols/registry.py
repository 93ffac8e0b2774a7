"""The protocol (dialect) of a request, by its path: the one table that both HTTP servers use.

Every protocol has a prefix of its own, with one exception: some of Cronitor's clients write
`/ping/{api key}/{monitor}`, which has the shape of Healthchecks' ping key and slug. Then the query must have `state=`
or `stamp=`, or the path a state that Healthchecks does not know.

| path | dialect |
| --- | --- |
| `/api/v1/heartbeat/…` | native, Better Stack |
| `/ping/…` | healthchecks; with two parts and `state=` or `stamp=`, or a third like `run`, cronitor |
| `/p/…` | cronitor |
| `/api/push/…` | uptime_kuma |
| `/api/v1/endpoints/{key}/external` | gatus |
| `/api/{number}/envelope/`, `…/store/`, `…/cron/…` | sentry |
| `/{token}` | snitch, with `--root-protocol snitch` |
"""

import re
from typing import Final

from offbeat_server.ingest.protocols import cronitor, gatus, healthchecks, native, snitch, uptime_kuma
from offbeat_server.ingest.protocols.base import Dialect
from offbeat_server.ingest.protocols.sentry import check_ins

_slashes = re.compile(r"/{2,}")
DIALECTS: Final[tuple[Dialect, ...]] = (native, healthchecks, cronitor, uptime_kuma, gatus, check_ins, snitch)


def one_slash(path: str) -> str:
    """The path of a ping that was put together with a slash too many: `//ping/…`, `/ping/{uuid}//fail`."""
    return _slashes.sub("/", path) if "//" in path else path


def find(path: str, query: str, root_protocol: str = "none") -> Dialect | None:
    """The dialect of a path, or None where it is no ping. `root_protocol` is the setting of that name."""
    if path.startswith(native.PREFIX):
        return native
    if path.startswith(healthchecks.PREFIX):
        if cronitor.speaks(path[len(healthchecks.PREFIX) :], query):
            return cronitor
        return healthchecks
    if path.startswith(uptime_kuma.PREFIX):
        return uptime_kuma
    if path.startswith(cronitor.PREFIX):
        return cronitor
    if path.startswith(gatus.PREFIX) and path.removesuffix("/").endswith(gatus.SUFFIX):
        return gatus
    if path.startswith("/api/") and check_ins.speaks(path):
        return check_ins
    if root_protocol == "snitch" and snitch.is_token(path[1:].removesuffix("/")):
        return snitch
    return None
