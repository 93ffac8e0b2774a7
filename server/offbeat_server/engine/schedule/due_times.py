"""When the next ping is due and when its absence is evaluated. Pure functions, used by the engine and by every page.

One ping satisfies one slot: for cron and OnCalendar a ping before its slot counts for it when it is no earlier than
min(grace, half the gap to the slot after). For an interval the next ping is due `every` after the last.
"""

from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.engine.model.definition import Definition
from offbeat_server.engine.model.enums import Status, member_or
from offbeat_server.engine.schedule.calendar import Calendar, calendar

PERIOD_SAMPLE: Micros = 1_767_225_600 * SECOND  # 2026-01-01, a year without surprises
PERIOD_SLOTS = 8
SATISFYING = frozenset(("success", "fail", "skip", "start"))


class MonitorStatus(NamedTuple):
    """A monitor at one instant, as a page shows it; instants in Micros, None where nothing is expected."""

    status: Status
    due_at: Micros | None
    deadline_at: Micros | None


def calendar_of(definition: Definition) -> Calendar | None:
    """The slots of a cron or OnCalendar schedule; None for other kinds."""
    if definition.cron is not None:
        return calendar("cron", definition.cron, definition.timezone)
    if definition.oncalendar is not None:
        return calendar("oncalendar", definition.oncalendar, definition.timezone)
    return None


def due_after(definition: Definition, due: Micros | None, at: Micros, missed: bool = False) -> Micros | None:
    """Return the due time after a ping at `at` that counts for the schedule; None: none.

    `due` is the due time before it, None for none yet. `missed`: the ping that was due is recorded as missed, and slots
    may have passed since that are not evaluated; the ping can only count for one whose grace period has not ended.
    """
    if definition.every is not None:
        return at + definition.every
    slots = calendar_of(definition)
    if slots is None:
        return None
    if missed or due is None:
        due = expected_slot(definition, due, at, missed)
        if due is None:
            return None
    if at < due:
        if due != slots.next_after(at):
            return due  # the slot before it was served already
        after = slots.next_after(due)
        return after if due - at <= early_max(definition, due, after) else due
    return slots.next_after(at)


def expected_slot(definition: Definition, due: Micros | None, at: Micros, suspended: bool) -> Micros | None:
    """The slot that a calendar expects next at `at`; None: none. See S3.5 and S3.6 of docs/semantics.md.

    `due` is what is due so far, None for nothing yet. `suspended`: `due` was missed already.
    """
    slots = calendar_of(definition)
    if slots is None or (due is not None and not suspended):
        return due
    slot = slots.next_after(at - definition.grace - 1)
    return slot if due is None or slot is None else max(due, slot)


def early_max(definition: Definition, due: Micros, after: Micros | None) -> Micros:
    """How early a ping may come and still count for the slot `due`, which `after` follows."""
    return definition.grace if after is None else min(definition.grace, (after - due) // 2)


def next_due(definition: Definition, due: Micros) -> Micros | None:
    """The occurrence after the one that was due at `due`; None: there is none."""
    if definition.every is not None:
        return due + definition.every
    slots = calendar_of(definition)
    return slots.next_after(due) if slots is not None else None


def period_of(definition: Definition) -> Micros | None:
    """The time between two pings that are due, of a calendar the shortest of the next few; None: there is none."""
    if definition.cron is not None:
        return _shortest_gap("cron", definition.cron, definition.timezone)
    if definition.oncalendar is not None:
        return _shortest_gap("oncalendar", definition.oncalendar, definition.timezone)
    return definition.every


@lru_cache(maxsize=10_000)
def _shortest_gap(kind: str, text: str, zone: str) -> Micros | None:
    slots = Calendar(kind, text, zone)  # the shared one remembers the gaps that pings ask about
    found: list[Micros] = []
    slot = slots.next_after(PERIOD_SAMPLE)
    while slot is not None and len(found) < PERIOD_SLOTS:
        found.append(slot)
        slot = slots.next_after(slot)
    return min((later - earlier for earlier, later in pairwise(found)), default=None)


def window_start(definition: Definition, due: Micros) -> Micros:
    """From when on a ping would count for what is due."""
    if definition.every is not None:
        return due - min(definition.grace, definition.every // 2)
    return due - early_max(definition, due, next_due(definition, due))


def due_from(definition: Definition, due: Micros | None, at: Micros) -> Micros | None:
    """Return the due time of a schedule that begins at `at`: one period later, or at the next slot.

    A slot is not before `due`. None: nothing is due.
    """
    if definition.every is not None:
        return at + definition.every
    slots = calendar_of(definition)
    if slots is None:
        return None
    slot = slots.next_after(at)
    return due if slot is None else max(due or slot, slot)


def due_when_edited(definition: Definition, due: Micros | None, last_ping_at: Micros, now: Micros) -> Micros | None:
    """Return the due time under `definition`, which replaced another one at `now`; None: none.

    `due` is the due time under the old definition.
    An edit expects nothing before its own instant. Only a ping that the old schedule was waiting for already, and that
    the new one expects too, stays due.
    """
    wanted = due_after(definition, None, last_ping_at)
    if wanted is None or wanted >= now:
        return wanted
    if definition.every is not None:
        if due is None:
            return now + definition.every
        return max(due, wanted) if due < now else min(due, now + definition.every)
    slots = calendar_of(definition)
    assert slots is not None
    was_asked_for = due is not None and wanted <= due < now and slots.next_after(due - 1) == due
    return due if was_asked_for else slots.next_after(now - 1)


def end_of_grace_period(definition: Definition, at: Micros) -> Micros:
    """Return the end of one period and grace period that begin at `at`: the time for one more ping."""
    if definition.members is not None:
        return at + definition.members.every + definition.members.grace
    if definition.after is not None:
        return at + definition.after.within + definition.grace
    due = due_from(definition, None, at)
    return (at if due is None else max(due, at)) + definition.grace


def status_at(
    definition: Definition, stored: str | None, state: dict[str, Any] | None, last_ping_at: Micros | None, now: Micros
) -> MonitorStatus:
    """A monitor as it is now, from its stored state and its newest satisfying ping (None: none).

    `stored` and `state` are the status and the state of its row in `states`, None if it has none yet. The row of a
    healthy monitor may be minutes old; the ping makes up for that. A status of a newer version is `unknown`.
    """
    state = state or {}
    status = member_or(Status, stored, Status.UNKNOWN) if stored else Status.NEW
    if status == Status.PAUSED:
        return MonitorStatus(status, None, None)
    due: Micros | None = state.get("due")
    grace = definition.grace
    evaluated_at: Micros | None = state.get("heard_at")
    if last_ping_at is not None and (evaluated_at is None or last_ping_at > evaluated_at):
        if definition.every is not None or calendar_of(definition) is not None:
            before = due if evaluated_at is not None else None
            due = due_after(definition, before, last_ping_at, missed=status == Status.DOWN)
        if status == Status.NEW:
            status = Status.UP
    elif last_ping_at is None and evaluated_at is None and definition.first_within is not None:
        due, grace = due or state.get("created", 0) + definition.first_within, 0
    if status != Status.DOWN and not definition.expects(last_ping_at is not None or evaluated_at is not None):
        return MonitorStatus(Status.UNWATCHED, None, None)
    if status == Status.UNWATCHED:  # as it was before its definition was changed
        status = Status.UP if last_ping_at is not None or evaluated_at is not None else Status.NEW
    if due is None:
        return MonitorStatus(status, None, None)
    if status in (Status.UP, Status.UNKNOWN) and now > due:
        status = Status.LATE
    return MonitorStatus(status, due, due + grace)
