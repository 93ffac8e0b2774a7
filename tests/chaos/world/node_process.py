"""The server with failpoints that can be armed while it runs: SIGUSR2 reads `failpoint` in its data directory.

The file holds the name of a place and how often it is passed first (server/offbeat_server/common/failpoints.py).
"""

import signal
import sys
from pathlib import Path
from types import FrameType

from offbeat.cli import main
from offbeat_server.common import failpoints

SIGNAL = signal.SIGUSR2


def arm(data_dir: Path, place: str, passes: int) -> None:
    """Write the file; the caller then sends the signal."""
    (data_dir / "failpoint").write_text(f"{place} {passes}")


def _obey(path: Path) -> None:
    place, passes = path.read_text().split()
    failpoints.arm(place, int(passes))


if __name__ == "__main__":
    directory = Path(sys.argv[sys.argv.index("--data-dir") + 1])

    def on_signal(number: int, frame: FrameType | None) -> None:
        """The signal has come."""
        _obey(directory / "failpoint")

    signal.signal(SIGNAL, on_signal)
    sys.exit(main())
