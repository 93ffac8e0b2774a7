"""Places where a test may end the process, to show that no ping is lost and no alert sent twice at any moment.

Nothing in the server arms one: no setting and no variable reaches here, so in production a call is one look into an
empty dict.
"""

import os
import signal

_armed: dict[str, int] = {}


def arm(name: str, passes: int = 0) -> None:
    """Kill this process at the place of that name, after it was passed `passes` times."""
    _armed[name] = passes


def pass_by(name: str) -> None:
    """A place of that name. If it is armed, the process ends as by `kill -9`."""
    if name not in _armed:
        return
    if _armed[name] > 0:
        _armed[name] -= 1
        return
    os.kill(os.getpid(), signal.SIGKILL)
