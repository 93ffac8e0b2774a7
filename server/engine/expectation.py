"""When the next ping is due and when its absence is judged. Pure functions, used by the engine and by every page.

One ping satisfies one slot: for cron and OnCalendar an early ping counts for the coming slot when it is nearer than
min(grace, half the gap to the slot after). For an interval the next ping is due `every` after the last.
"""

from typing import Any, NamedTuple

from server.engine.monitor import Definition
from server.engine.ping import Micros
from server.engine.schedule import Calendar, calendar

SATISFYING = frozenset(("success", "fail", "skip", "start"))


class Seen(NamedTuple):
    """A monitor at one instant, as a page shows it; instants in Micros, None where nothing is expected."""

    status: str
    due_at: Micros | None
    deadline_at: Micros | None


def calendar_of(definition: Definition) -> Calendar | None:
    """The slots of a cron or OnCalendar schedule; None for other kinds."""
    if definition.cron is not None:
        return calendar("cron", definition.cron, definition.timezone)
    if definition.oncalendar is not None:
        return calendar("oncalendar", definition.oncalendar, definition.timezone)
    return None


def due_after(definition: Definition, due: Micros, at: Micros, early: bool = True) -> Micros:
    """What is due after a satisfying ping at `at`, when `due` was expected; 0: nothing.

    `early`: whether the ping may count for a slot that has not come yet. The finish of a run that has satisfied a slot
    by its start may not.
    """
    if definition.every is not None:
        return at + definition.every
    slots = calendar_of(definition)
    if slots is None:
        return 0
    first = slots.next_after(at)
    if first is None:
        return 0
    if early and first - at <= definition.grace:
        second = slots.next_after(first)
        if second is None:
            return 0
        if first - at <= (second - first) // 2:
            return max(due, second)
    return max(due, first)


def next_due(definition: Definition, due: Micros) -> Micros:
    """The occurrence after the one that was due at `due`; 0: there is none."""
    if definition.every is not None:
        return due + definition.every
    slots = calendar_of(definition)
    return (slots.next_after(due) or 0) if slots is not None else 0


def period(definition: Definition, at: Micros) -> Micros:
    """The length of one period around `at`; 0 where there is none (only runs are watched)."""
    if definition.every is not None:
        return definition.every
    if definition.members is not None:
        return definition.members.every
    if definition.after is not None:
        return definition.after.within
    slots = calendar_of(definition)
    if slots is None or (first := slots.next_after(at)) is None or (second := slots.next_after(first)) is None:
        return 0
    return second - first


def window_start(definition: Definition, due: Micros) -> Micros:
    """From when on a ping would count for what is due: due − min(grace, half a period)."""
    return due - min(definition.grace, period(definition, due) // 2)


def look(
    definition: Definition, status: str | None, state: dict[str, Any] | None, heard_at: Micros, now: Micros
) -> Seen:
    """A monitor as it is now, from its stored state and its newest satisfying ping (0: none).

    `status` and `state` are those of its row in `states`, None where the keeper has not met it yet. A healthy monitor's
    row may be minutes old; the ping makes up for that.
    """
    state = state or {}
    status = status or "new"
    if status == "paused":
        return Seen(status, None, None)
    due: Micros = state.get("due", 0)
    if heard_at > state.get("heard_at", 0):
        due = due_after(definition, due, heard_at)
        if status == "new":
            status = "up"
    elif not heard_at and definition.first_within is not None and "created" in state:
        due = state["created"] + definition.first_within - definition.grace
    if not due:
        return Seen(status, None, None)
    deadline = max(due + definition.grace, state.get("not_before", 0))
    if status in ("up", "unknown") and now > due:
        status = "late"
    return Seen(status, due, deadline)
