"""The real server, to be ended at one place, which the variable END_AT names.

It is armed when a deadline has passed, and not from the start: what comes before has the same places. Leases are short,
so that the next process need not wait for long; all else is as it ships.
"""

import os
import sys
from typing import Any

from offbeat import cli
from offbeat_server.common import failpoints
from offbeat_server.engine.rules import notifications
from offbeat_server.notify.dispatcher import Dispatcher
from offbeat_server.runtime import parts
from offbeat_server.scheduler import lease


class QuickDispatcher(Dispatcher):
    """Is followed sooner by the next one."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.lease_s, self.life_s, self.pulse_s = 3.0, 2.0, 0.5


def main() -> Any:
    """Until the place, or a signal."""
    _arm_at_an_opening(os.environ["END_AT"])
    lease.LIFE_S, lease.RENEW_EVERY_S, lease.TRUST_S, lease.TAKE_EVERY_S = 2.5, 0.7, 2.0, 0.2
    parts.Dispatcher = QuickDispatcher  # type: ignore[attr-defined]
    return cli.main()


def _arm_at_an_opening(place: str) -> None:
    """The engine is pure and has no places; when it asks this, a deadline has passed and nothing is decided."""
    plan_opening = notifications.schedule_opening

    def watched(*arguments: Any) -> None:
        failpoints.arm(place)
        failpoints.pass_by("passed")
        plan_opening(*arguments)

    notifications.schedule_opening = watched  # type: ignore[assignment]


if __name__ == "__main__":
    sys.exit(main())
