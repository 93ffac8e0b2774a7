"""One monitor by itself: its state if it had continued from a stored state under the same inputs.

A start does the same for all monitors at once. It is done for one whose state was left behind (an internal error that a
new version corrects), and to compare the state in memory and in the database with the log.
"""

from collections.abc import Callable, Mapping, Sequence

from offbeat_server.common.instants import Micros
from offbeat_server.engine.engine import Engine
from offbeat_server.engine.model.monitor import Monitor
from offbeat_server.engine.schedule.maintenance_windows import Window


def isolated_engine(
    outages: Sequence[tuple[Micros, Micros]],
    windows: Mapping[int, tuple[int, Window]],
    m: Monitor,
    on_quarantine: Callable[[int, Exception], None],
) -> Engine:
    """An engine that holds only `m`, at its last input, with the outages and the maintenance windows of another.

    Others do not exist for it: what depends on them (`depends_on`, `after`) is decided as if they were up.
    """
    lone = Engine(on_quarantine)
    for start, end in outages:
        lone.state.outages.add(start, end)
    lone.state.windows = dict(windows)
    lone.load(m)
    lone.loaded(m.at)
    return lone
