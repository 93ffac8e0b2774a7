"""Makes a monitor for the first ping that addresses it, if its dialect knows that, and follows what clients declare.

A monitor that is made without a declaration gets the defaults of the service whose dialect the ping speaks, because a
monitor without a schedule would never notice that the job is gone.

Sentry's clients send the schedule with every check-in, so what was declared last is remembered: only a declaration that
differs costs a transaction. The number of monitors is limited per project, and the number of new ones also per minute,
because many jobs and people know a ping key.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import structlog

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import DefinitionError
from offbeat_server.common.rate_limit import KeyedRateLimiter, RateLimit
from offbeat_server.db.pool import Pool, database_trouble
from offbeat_server.ingest.key_index import KeyIndex
from offbeat_server.ingest.protocols.base import OK, Outcome, SlugAddress
from offbeat_server.services.monitors import Provisioned, ProvisionMonitor, provision_monitor

CREATED_PER_MINUTE_MAX = 100  # monitors, per project; beyond: the dialect's answer for "full"
CHANGED_PER_MINUTE_MAX = 1_000  # beyond: the ping counts, and a later one changes the monitor
REMEMBERED_MAX = 100_000  # declarations
_UNKNOWN, _FULL, _CROWDED = Outcome("unknown"), Outcome("full"), Outcome("crowded")
_OUTCOMES: Final[Mapping[Provisioned, Outcome]] = {
    "created": Outcome("created"),
    "changed": OK,
    "unchanged": OK,
    "unknown": _UNKNOWN,
    "full": _FULL,
    "crowded": _CROWDED,
}
_DAILY: Final[Mapping[str, Any]] = {"every": "1d", "grace": "1h"}
# Healthchecks 29b5ec25, hc/api/models.py: DEFAULT_TIMEOUT, DEFAULT_GRACE; a run must end within the grace time.
# Cronitor makes a monitor without a schedule, of which only failures are alerted; a day is what its users mean most.
DEFAULTS: Final[Mapping[str | None, Mapping[str, Any]]] = {"healthchecks": {**_DAILY, "max_runtime": "1h"}}

log = structlog.get_logger("provisioning")


class Provisioning:
    """Called with an address that may create or change its monitor; the key index knows the monitor afterwards."""

    def __init__(self, pool: Pool, key_index: KeyIndex, allowed: bool, monitors_max: int = 10_000) -> None:
        self._pool, self._key_index, self._allowed, self._monitors_max = pool, key_index, allowed, monitors_max
        self._declared: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._created = KeyedRateLimiter[int](RateLimit.per_minute(CREATED_PER_MINUTE_MAX, in_windows=True))
        self._changed = KeyedRateLimiter[int](RateLimit.per_minute(CHANGED_PER_MINUTE_MAX, in_windows=True))

    async def __call__(self, address: SlugAddress, dialect: str | None) -> Outcome:
        """`created`, `ok` (it is there), `unknown` (it is not, and is not made), `full` or `crowded`.

        Raises UnavailableError.
        """
        known = self._key_index.find_slug(address.ping_key, address.slug) is not None
        project_id = self._key_index.project_of(address.ping_key)
        if not self._allowed or project_id is None:
            return OK if known else _UNKNOWN
        key = (address.ping_key, address.slug)
        if known and (address.definition is None or self._declared.get(key) == address.definition):
            return OK
        if not (self._changed if known else self._created).left(project_id, monotonic()):
            return OK if known else _FULL
        try:
            outcome = await self._put(address, project_id, dialect)
        except DefinitionError as error:
            log.warning("provisioning.definition_invalid", slug=address.slug, error=str(error))
            outcome = OK if known else _UNKNOWN
        if address.definition is not None and outcome not in (_FULL, _CROWDED):
            self._remember(key, address.definition)
        if outcome.kind in ("ok", "created") and self._key_index.find_slug(*key) is None:
            await self._key_index.refresh()
        return outcome

    def complain(self, address: SlugAddress) -> None:
        """Log why the definition that a client sent cannot be used: once, though it comes with every check-in."""
        key = (address.ping_key, address.slug)
        if self._key_index.project_of(address.ping_key) is None or self._declared.get(key) == address.problem:
            return
        self._remember(key, address.problem)
        log.warning("provisioning.definition_rejected", slug=address.slug, problem=address.problem)

    def _remember(self, key: tuple[str, str], declared: Any) -> None:
        self._declared[key] = declared
        if len(self._declared) > REMEMBERED_MAX:
            self._declared.popitem(last=False)

    def may_make(self, ping_key: str) -> bool:
        """Whether pings with this ping key can make monitors at all."""
        return self._allowed and self._key_index.project_of(ping_key) is not None

    async def _put(self, address: SlugAddress, project_id: int, dialect: str | None) -> Outcome:
        def may_create() -> bool:
            # Since the first check, other pings may have created monitors while this one waited for the lock.
            return self._created.take(project_id, monotonic()) == 0.0

        command = ProvisionMonitor(
            project_id,
            address.slug,
            like=address.like,
            create=address.create,
            declared=address.definition or {},
            defaults=_defaults(address, dialect),
            may_create=may_create,
            monitors_max=self._monitors_max,
        )
        with database_trouble():
            provisioned = await provision_monitor(self._pool, command, "ping")
        if provisioned == "changed":
            self._changed.take(project_id, monotonic())
        if provisioned == "crowded":
            log.warning(
                "provisioning.monitors_limit_reached",
                project_id=project_id,
                slug=address.slug,
                monitors_max=self._monitors_max,
                detail="The ping is refused. Delete monitors that the project no longer needs.",
            )
        return _OUTCOMES[provisioned]


def _defaults(address: SlugAddress, dialect: str | None) -> Mapping[str, Any]:
    """The default definition of a monitor that a ping creates."""
    if address.definition is not None:
        return address.defaults or {}
    return DEFAULTS.get(dialect, _DAILY)
