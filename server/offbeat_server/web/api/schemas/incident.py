"""Incidents as the API shows them."""

from typing import Any

from offbeat_server.common.clock import to_rfc3339
from offbeat_server.db.pool import Record
from offbeat_server.web.api.schemas.monitor import instant

ALERTS_SHOWN_MAX = 200  # of one incident


def incident_answer(row: Record) -> dict[str, Any]:
    """An incident as it is shown."""
    return {
        "id": f"{row['monitor_id']}-{row['number']}",
        "monitor": row["monitor"],
        "project": row["project"],
        "number": row["number"],
        "opened_at": instant(row["opened_at"]),
        "resolved_at": instant(row["resolved_at"]),
        "decided_at": instant(row["decided_at"]),
        "cause": row["cause"],
        "reason": row["reason"],
        "run": row["run"],
        "stage": row["stage"],
        "causes": [{**cause, "opened_at": to_rfc3339(cause.get("opened_at"))} for cause in row["causes"]],
        "suppressed_by": row["suppressed_by"],
        "revised": row["revised"],
        "acknowledged_at": instant(row["acknowledged_at"]),
        "acknowledged_by": row["acknowledged_by"],
    }
