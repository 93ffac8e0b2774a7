"""Find the earliest outage that can still move a deadline, so that older ones can be forgotten.

A deadline moves by the outages in its window. So an outage is needed while the engine may still evaluate a window that
begins before the outage ends. `window_starts` yields where each such window begins, rather too early than too late:

- A schedule: the windows of this and of later occurrences begin at most two graces before what is due or now, whichever
  is earlier. The one for the first ping is as long as `first_within`.
- An incident in which the next ping is awaited, and a pause: the next ping or the resume sets a new due time.
- An open run: from its start while a limit can still be broken, since outstanding tasks ask for that; as long as a ping
  may bring back a limit that is not over yet; and if it has pinged since `active_since`, because an edit may give it
  another limit, or give one back. Other runs are those of jobs that died long ago. They stay open, and need no outage.
- A member of a fleet that is not silent: from its last ping.
"""

from collections.abc import Iterator

from offbeat_server.common.instants import Micros
from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.definition import Definition
from offbeat_server.engine.model.monitor import Monitor
from offbeat_server.engine.model.run import Run


def window_starts(state: EngineState, m: Monitor, now: Micros, active_since: Micros) -> Iterator[Micros]:
    """The beginnings of the windows of a monitor as it is at `now`; at least one instant, no later than `now`."""
    definition, incident = m.definition, m.incident
    waits = not m.paused and (incident is None or not incident.silent)
    yield min(m.due if waits and m.due is not None else now, now) - max(
        2 * definition.grace, definition.first_within or 0
    )
    if m.awaited and definition.after is not None:
        first = min(m.awaited.values())
        yield (max(first, now) if m.paused else first) - definition.after.within  # a resume moves those that are past
    for run in list(m.runs.open.values()) if m.runs is not None else ():
        yield from _run_starts(state, m, run, now, active_since)
    if m.fleet is not None:
        silent = m.fleet.silent
        for name, member in list(m.fleet.members.items()):
            if name not in silent:
                yield member.at


def _run_starts(state: EngineState, m: Monitor, run: Run, now: Micros, active_since: Micros) -> Iterator[Micros]:
    watched = run.last_at >= active_since
    watched = watched or state.moved(m, run.last_at, run.last_at + _longest_limit(m.definition)) >= now
    for limit in list(run.limits(m.definition)):  # inputs may be applied between two instants
        if state.run_deadline(m, run, limit) >= now:
            watched = True
            yield limit.base
    if watched and (started_at := run.unended_since or run.started_at) is not None:
        yield started_at


def _longest_limit(definition: Definition) -> Micros:
    """The longest limit that a ping can bring back; it begins no later than the ping before."""
    every_tasks = (definition.tasks, *(stage.tasks for stage in definition.stages))
    within = [tasks.within or 0 for tasks in every_tasks if tasks is not None]
    runtime = definition.max_runtime or definition.runtime_default or 0
    return max([runtime, *within, *(stage.within or 0 for stage in definition.stages)])
