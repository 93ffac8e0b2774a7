"""Projects and access keys as the API shows them."""

from typing import Any

from offbeat_server.db.pool import Record
from offbeat_server.services.projects import SWITCHES
from offbeat_server.web.api.schemas.monitor import instant


def project_answer(row: Record, sees_secrets: bool) -> dict[str, Any]:
    """A project as it is shown; its keys only to those who see secrets."""
    return {
        "slug": row["slug"],
        "name": row["name"],
        "ping_key": row["ping_key"] if sees_secrets else None,
        "badge_key": row["definition"].get("badge_key") if sees_secrets else None,
        **{name: row["definition"].get(name, False) for name in SWITCHES},
        "created_at": instant(row["created_at"]),
    }


def key_answer(row: Record) -> dict[str, Any]:
    """An access key as it is shown."""
    return {
        "id": row["id"],
        "name": row["name"],
        "role": row["role"],
        "project": row["project"],
        "prefix": row["prefix"],
        "created_at": instant(row["created_at"]),
        "last_used_at": instant(row["last_used_at"]),
        "revoked_at": instant(row["revoked_at"]),
    }
