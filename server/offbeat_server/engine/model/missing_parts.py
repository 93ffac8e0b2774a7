"""The parts of a run that have not ended well when it sends `success`."""

from typing import NamedTuple


class MissingParts(NamedTuple):
    """The parts: groups of tasks by stage ("": of the run itself), and listed stages by name."""

    groups: tuple[str, ...]
    never_started: tuple[str, ...]
    running: tuple[str, ...]
    failed: tuple[str, ...]

    @property
    def unheard(self) -> "MissingParts | None":
        """The parts that may have ended without Offbeat's knowledge."""
        return self._replace(failed=()) if self.groups or self.never_started or self.running else None

    @property
    def explicit(self) -> "MissingParts | None":
        """The parts that the job itself reported as failed."""
        return MissingParts((), (), (), self.failed) if self.failed else None
