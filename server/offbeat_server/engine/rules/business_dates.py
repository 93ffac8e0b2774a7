"""Which business date a run is for, and what that means for the schedule.

A run is for the date that its client names, in `for` or in its run id, and otherwise for the occurrence of the schedule
whose time it is. A run for an earlier occurrence is a backfill: it changes only its own occurrence. The tables
are in section S19 of docs/semantics.md.
"""

from typing import NamedTuple

from offbeat_server.common.instants import Micros
from offbeat_server.engine.model.definition import Definition
from offbeat_server.engine.model.monitor import Cause, Monitor
from offbeat_server.engine.model.ping import Ping
from offbeat_server.engine.model.run import Run
from offbeat_server.engine.model.runs import EndedRun
from offbeat_server.engine.schedule import business_dates
from offbeat_server.engine.schedule.due_times import calendar_of, expected_slot


class RunDate(NamedTuple):
    """The business date of a run or heartbeat (None: none), and whether it counts for the schedule."""

    business_date: str | None = None
    is_named: bool = False  # its client named the date
    is_backfill: bool = False
    serves: bool = True  # it counts for the occurrence that the schedule expects


class Success(NamedTuple):
    """A success that counts, as far as causes need to know it.

    `number` is 0 for a heartbeat and for a run whose first ping ended it; `since` is the start, None if unknown.
    `any_date`: it came by the protocol of another service, where a success ends every failure.
    """

    number: int = 0
    since: Micros | None = None
    business_date: str | None = None
    is_backfill: bool = False
    any_date: bool = False
    run: str | None = None
    by_hand: bool = False  # a person says so, no ping


def date_of(m: Monitor, ping: Ping, now: Micros) -> RunDate:
    """The date of the run that a ping opens, or of a heartbeat."""
    definition, options = m.definition, ping.options
    is_backfill = options is not None and options.backfill
    date = named_date(definition, ping, now)
    if calendar_of(definition) is None:
        return RunDate(date, date is not None, is_backfill, not is_backfill)
    suspended = m.incident is not None and m.incident.silent
    due = m.due if m.last_ping_at is not None else None  # before the first ping it is no slot
    expected = expected_slot(definition, due, now, suspended)
    present = business_dates.present_slot(definition, expected, now)
    if date is None:
        shown = None if present is None else business_dates.of_slot(definition, present)
        return RunDate(shown, False, is_backfill, not is_backfill)
    if expected is None:
        return RunDate(date, True, is_backfill, serves=False)
    if not is_backfill and present is not None:
        is_backfill = business_dates.is_earlier(date, business_dates.of_slot(definition, present))
    serves = not is_backfill and date == business_dates.of_slot(definition, expected)
    return RunDate(date, True, is_backfill, serves)


def named_date(definition: Definition, ping: Ping, now: Micros) -> str | None:
    """The date that a ping names: in `for`, otherwise in its run id; None: none."""
    options = ping.options
    if options is not None and options.business_date is not None:
        return business_dates.named(definition, options.business_date)
    return business_dates.in_run_id(definition, ping.run, now) if ping.run is not None else None


def is_about(m: Monitor, cause: Cause, success: Success) -> bool:
    """Whether a success says anything about a cause, by the business dates of both."""
    date, other = cause.business_date, success.business_date
    if date is not None and date == other:
        return True
    if success.is_backfill:
        return False
    if date is None:
        return True
    if other is not None and business_dates.is_earlier(other, date):
        return False
    return not is_bound(m, cause, success)


def is_bound(m: Monitor, cause: Cause, success: Success) -> bool:
    """Whether of all successes like this one, only that of its own business date ends a cause."""
    if cause.business_date is None:
        return False
    recover_by = m.definition.recover_by
    if recover_by is None:
        return not success.any_date and (cause.is_date_named or _is_batch(m))
    return recover_by == "same"


def _is_batch(m: Monitor) -> bool:
    """Whether a monitor has had runs, and its slots are dates: one night does not make up for another."""
    definition = m.definition
    has_dates = calendar_of(definition) is not None and not business_dates.has_several_a_day(definition)
    return has_dates and m.runs is not None and m.runs.count > 0


def success_of(run: Run | EndedRun, ping: Ping, number: int, since: Micros | None) -> Success:
    """The success of a run that a ping reports."""
    return Success(number, since, run.business_date, run.is_backfill, ping.dialect is not None, ping.run)
