"""The roles of a process. `offbeat serve` is one process, or with `--workers N` one main process and N workers."""

from enum import StrEnum


class Role(StrEnum):
    """The work of one process; `builders.py` has a builder for each."""

    ALL = "all"  # everything
    MAIN = "main"  # evaluates deadlines, sends alerts, starts the workers
    WORKER = "worker"  # takes pings, serves pages and API
