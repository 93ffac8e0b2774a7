"""A change as people read it: field by field, old and new, without keys and secrets.

The rows of the audit log hold complete documents, so that the scheduler can go back. People should not have to read two
of them to find one number. Secrets are masked here too: a change that was just made has them, and so have rows of older
versions.
"""

from dataclasses import dataclass
from typing import Any, Literal

from offbeat_server.db.repositories.changes import begin_of_key
from offbeat_server.engine.model.definition import with_present_names
from offbeat_server.services.context import ChannelKinds

Document = dict[str, Any]
Action = Literal["create", "change", "delete"]
_NOT_SHOWN = frozenset(("id", "slug", "created_at", "project_id", "references"))


@dataclass(
    frozen=True
)  # no slots: an apply may have 100,000 of them, and orjson writes them four times as fast without
class FieldDifference:
    """One field that differs. A field that is not there is None, and so is one at its default."""

    field: str
    old: Any
    new: Any


def action_of(before: Document | None, after: Document | None) -> Action:
    """Return the kind of a change."""
    if before is None:
        return "create"
    return "delete" if after is None else "change"


def field_changes(
    kinds: ChannelKinds, kind: str, before: Document | None, after: Document | None
) -> list[FieldDifference]:
    """The differences between two documents of the audit log."""
    old, new = _flat(kinds, kind, before), _flat(kinds, kind, after)
    changed = [
        FieldDifference(name, old.get(name), new.get(name))
        for name in [*old, *(name for name in new if name not in old)]
        if old.get(name) != new.get(name)
    ]
    if before and after and not changed:  # it would not be recorded if nothing had changed
        hidden = "keys" if kind == "monitor" else "ping_key" if kind == "project" else "secrets"
        changed = [FieldDifference(hidden, "(hidden)", "(hidden, changed)")]
    return changed


def _flat(kinds: ChannelKinds, kind: str, document: Document | None) -> Document:
    if document is None:
        return {}
    flat = {name: value for name, value in document.items() if name not in _NOT_SHOWN}
    definition = flat.pop("definition", None)
    if kind == "move":
        flat = {"slug": document["slug"], **flat}
    if kind in ("monitor", "move"):
        definition = with_present_names({**(definition or {}), **flat.pop("newer_fields", {})})
    if kind == "channel":
        definition = kinds.shown(flat.get("kind", ""), definition or {})
    if kind == "project":
        flat.pop("ping_key", None)
        definition = {name: value for name, value in (definition or {}).items() if name != "badge_key"}
    if keys := flat.pop("keys", None):
        flat["keys"] = [_bound(key) for key in keys if not key["main"]]
    return {name: value for name, value in {**flat, **(definition or {})}.items() if value not in (None, [], False)}


def _bound(key: Document) -> str:
    """A key by what it serves, and enough of it to know it again."""
    serves = " ".join(part for part in (key["signal"], key["stage"]) if part) or "any signal"
    return f"{serves} ({begin_of_key(key['key'])})"
