"""Times in which pings were refused, until they are recorded in the database: a missing ping proves nothing then.

Kept in local monotonic time, because pings are also refused before the process knows the database's time.
"""

from collections import Counter
from collections.abc import Iterable

from offbeat_server.common.clock import LogClock
from offbeat_server.common.instants import Micros
from offbeat_server.db.repositories.ping_log import RefusedPings
from offbeat_server.engine.model.ping import Signal
from offbeat_server.ingest.protocols.base import PingNote
from offbeat_server.observability.metrics import Metrics

# Of the reasons that metrics know, those that make an outage. A ping that is answered too late (`timeout`) is kept, and
# its time is reported as `database`. A key that is over its rate limit has sent enough pings. Refusals during a stop
# count up to the writer's last statement, which takes time while Postgres is away; after it the stop is recorded as a
# stop.
REPORTED = ("full", "database", "clock", "stopping")


class _Span:
    """From the first to the last refusal for one reason, in local microseconds."""

    __slots__ = ("ended", "pings", "started")

    def __init__(self, started: Micros) -> None:
        self.started = self.ended = started
        self.pings = 0


class RefusedPingTracker:
    """Refused pings: reported before any ping that is accepted later, and counted."""

    def __init__(self, clock: LogClock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._open: dict[str, _Span] = {}
        self._reporting: dict[str, _Span] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._notes: Counter[str] = Counter()

    @property
    def unreported(self) -> bool:
        """Whether there is something to report to the database."""
        return bool(self._open or self._reporting)

    def add(self, reason: str, signal: Signal) -> None:
        """A ping is refused now."""
        self._count(reason, signal)
        if reason in REPORTED:
            self._extend(reason, self._clock.local())

    def add_silence(self, reason: str, age: Micros) -> None:
        """Record that no ping could be received for this time, and that no refused ping is known."""
        now = self._clock.local()
        _include(self._open, reason, now - age, now, 0)

    def add_dropped(self, reason: str, signal: Signal, at: Micros) -> None:
        """A ping that was accepted at `at` (log time) will not be stored after all."""
        self._count(reason, signal)
        self._extend(reason, self._clock.local() - (self._clock.now() - at))

    def count_late(self, signal: Signal, at: Micros) -> None:
        """A ping that came at `at` (log time) is answered 503, because its commit takes too long.

        It is stored if that is still possible. The time is an outage: other clients may have given up, and the retry of
        this ping is known by it.
        """
        self._count("timeout", signal)
        now = self._clock.local()
        _include(self._open, "database", now - (self._clock.now() - at), now, 0)

    def count_notes(self, notes: Iterable[PingNote]) -> None:
        """A ping was taken, and parts of it were left out or changed."""
        self._notes.update(note.field for note in notes)

    def ages(self) -> list[RefusedPings]:
        """Return the intervals to report, as ages; `reported` ends it. Later refusals belong to the next report."""
        now = self._clock.local()
        return [
            RefusedPings(now - span.started, now - span.ended, span.pings, reason)
            for reason, span in self._begin_report()
        ]

    def instants(self) -> list[RefusedPings]:
        """The same as instants of log time."""
        offset = self._clock.now() - self._clock.local()
        return [
            RefusedPings(span.started + offset, span.ended + offset, span.pings, reason)
            for reason, span in self._begin_report()
        ]

    def reported(self) -> None:
        """The database has what `ages` or `instants` gave last."""
        self._reporting.clear()

    def publish(self) -> None:
        """Hand the counts to the metrics: not once per ping, since refusals come in storms."""
        for reason, counts in self._counts.items():
            self._metrics.refused(reason, counts)
        self._counts.clear()
        if self._notes:
            self._metrics.noted(self._notes)
            self._notes.clear()

    def _begin_report(self) -> Iterable[tuple[str, _Span]]:
        # While no report comes through nothing is committed: what lies between two of them is the same silence.
        for reason, span in self._open.items():
            _include(self._reporting, reason, span.started, span.ended, span.pings)
        self._open = {}
        return self._reporting.items()

    def _extend(self, reason: str, at: Micros) -> None:
        _include(self._open, reason, at, at, 1)

    def _count(self, reason: str, signal: Signal) -> None:
        counts = self._counts.get(reason)
        if counts is None:
            counts = self._counts[reason] = Counter()
        counts[signal] += 1


def _include(spans: dict[str, _Span], reason: str, started: Micros, ended: Micros, pings: int) -> None:
    span = spans.get(reason)
    if span is None:
        span = spans[reason] = _Span(started)
    span.started = min(span.started, started)
    span.ended = max(span.ended, ended)
    span.pings += pings
