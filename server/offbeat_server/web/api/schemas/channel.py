"""Channels, alerts and test messages as the API shows them."""

from collections.abc import Mapping
from typing import Any

from offbeat_server.db.pool import Record
from offbeat_server.engine.model.enums import AlertState
from offbeat_server.notify.channels.registry import show_channel
from offbeat_server.web.api.schemas.monitor import instant


def channel_answer(row: Record) -> dict[str, Any]:
    """A channel as it is shown."""
    return {
        **show_channel(row["kind"], row["definition"]),
        "slug": row["slug"],
        "project": row["project"],
        "kind": row["kind"],
        "default": row["is_default"],
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
        "failing_since": instant(row["failing_since"]),
        "failing_why": row["failing_why"],
    }


def alert_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """An alert as it is shown."""
    return {
        "id": row["id"],
        "project": row["project"],
        "monitor": row["monitor"],
        "incident": f"{row['monitor_id']}-{row['incident']}" if row["incident"] else None,
        "channel": row["channel"],
        "kind": row["kind"],
        "state": row["state"],
        "attempts": row["attempts"],
        "error": row["error"],
        "digest_alerts": row["digest_alerts"],
        "recovered_unsent": row["recovered_unsent"],
        "created_at": instant(row["created_at"]),
        "next_attempt_at": instant(row["next_attempt_at"]) if row["state"] == AlertState.PENDING else None,
        "settled_at": instant(row["settled_at"]),
        "expires_at": instant(row["expires_at"]),
    }
