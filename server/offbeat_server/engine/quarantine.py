"""Monitors that are left out because of an internal error, so that it stops no other monitor.

The state of such a monitor in memory may hold half of an input, so it is not written: its stored state stays at its
last good position, and a later start applies the log to it from there. Until then its pings are skipped.
"""

from collections.abc import Callable

from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.monitor import Monitor
from offbeat_server.engine.rules.dependencies import register, unregister


class Quarantine:
    """The monitors that are left out. `on_quarantine` is called with each."""

    def __init__(self, state: EngineState, on_quarantine: Callable[[int, Exception], None]) -> None:
        self._state, self._on_quarantine = state, on_quarantine
        self.monitors: dict[int, Monitor | None] = {}  # None: one whose state could not even be read

    def add(self, monitor_id: int, error: Exception) -> None:
        """Leave a monitor out."""
        state = self._state
        m = self.monitors[monitor_id] = state.monitors.pop(monitor_id, self.monitors.get(monitor_id))
        state.unknown_ids.add(monitor_id)  # its pings are passed over
        if (undecided := state.pending_decisions.pop(monitor_id, None)) is not None:
            state.pending_runs -= len(undecided.runs)
        state.pending_deletion.pop(monitor_id, None)
        state.with_incident.discard(monitor_id)
        if m is not None:
            unregister(state, m)
            m.queued_at = None
        self._on_quarantine(monitor_id, error)

    def restore(self, monitor_id: int) -> bool:
        """Try it again, if it is here; False: its state is unknown, so it stays out."""
        if monitor_id not in self.monitors:
            return True
        m = self.monitors[monitor_id]
        if m is None:
            return False
        del self.monitors[monitor_id]
        self._state.unknown_ids.discard(monitor_id)
        register(self._state, m)
        if m.current_incident is not None:
            self._state.with_incident.add(monitor_id)
        return True
