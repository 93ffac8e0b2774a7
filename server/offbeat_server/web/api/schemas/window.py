"""Maintenance windows as the API shows them."""

from typing import Any

from offbeat_server.common.clock import to_rfc3339
from offbeat_server.common.instants import Micros
from offbeat_server.db.pool import Record
from offbeat_server.engine.schedule.maintenance_windows import Window
from offbeat_server.web.api.schemas.monitor import instant


def window_answer(row: Record, now: Micros) -> dict[str, Any]:
    """A window as it is shown at `now`."""
    window = Window.model_validate(row["definition"])
    return {
        "slug": row["slug"],
        "project": row["project"],
        **window.model_dump(mode="json"),
        "open_until": to_rfc3339(window.end_at(now)),
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
    }
