"""One monitor by itself: what it would be, had it gone on from a stored state under the same inputs.

A start does the same for all monitors at once. For one it is done where its state was left behind (an error of ours,
cured by a new version), and to see whether what is in memory and in the database is what the log says.
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
    """An engine that holds only `m`, at its last input, with the deaf time and the maintenance windows of another.

    Others do not exist for it: what depends on them (`depends_on`, `after`) is decided as if they were well.
    """
    lone = Engine(on_quarantine)
    for start, end in outages:
        lone.state.outages.add(start, end)
    lone.state.windows = dict(windows)
    lone.load(m)
    lone.loaded(m.at)
    return lone
