"""The real server, to be ended at one place, which the variable END_AT names.

It is armed when a deadline has passed, and not from the start: what comes before has the same places. All else is as it
ships.
"""

import os
import sys
from typing import Any

from offbeat import cli
from offbeat_server.common import failpoints
from offbeat_server.engine.rules import notifications


def main() -> Any:
    """Until the place, or a signal."""
    _arm_at_an_opening(os.environ["END_AT"])
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
