"""Monitors that are left out because of an error of ours, so that it stops nobody else.

What is here of such a monitor may be half of an input, so nothing of it is written: its stored state stays at its last
good position, and a later start applies the log to it from there. Until then its pings are passed over.
"""

from collections.abc import Callable

from offbeat_server.engine.engine_state import Desk
from offbeat_server.engine.model.monitor import Monitor
from offbeat_server.engine.rules.dependencies import enter, leave


class Aside:
    """Who was left out. `on_quarantine` is told of each."""

    def __init__(self, desk: Desk, on_quarantine: Callable[[int, Exception], None]) -> None:
        self._desk, self._on_quarantine = desk, on_quarantine
        self.monitors: dict[int, Monitor | None] = {}  # None: one whose state could not even be read

    def put(self, monitor_id: int, error: Exception) -> None:
        """Leave a monitor out."""
        desk = self._desk
        m = self.monitors[monitor_id] = desk.monitors.pop(monitor_id, self.monitors.get(monitor_id))
        desk.strangers.add(monitor_id)  # its pings are passed over
        if (undecided := desk.undecided.pop(monitor_id, None)) is not None:
            desk.undecided_runs -= len(undecided.runs)
        desk.gone.pop(monitor_id, None)
        desk.troubled.discard(monitor_id)
        if m is not None:
            leave(desk, m)
            m.armed = 0
        self._on_quarantine(monitor_id, error)

    def take_back(self, monitor_id: int) -> bool:
        """Try it again, if it is here; False: nobody knows what it was, so it stays out."""
        if monitor_id not in self.monitors:
            return True
        m = self.monitors[monitor_id]
        if m is None:
            return False
        del self.monitors[monitor_id]
        self._desk.strangers.discard(monitor_id)
        enter(self._desk, m)
        if m.incident is not None:
            self._desk.troubled.add(monitor_id)
        return True
