"""Live parts of pages: lines of the overview, open incidents, monitors, runs, incidents, the system itself.

Each is queried once for all streams, and rendered by the same code and templates as its page.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast
from zlib import crc32

from offbeat_server.common.clock import monotonic
from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.db.pool import Pool, Record
from offbeat_server.db.read_models import history, overview, pages
from offbeat_server.db.repositories.client_runs import ClientRun, read_new_pings
from offbeat_server.engine.model.enums import Status
from offbeat_server.web.ui import monitor_rows
from offbeat_server.web.ui.live.hub import Patch, TopicKey, TopicKind
from offbeat_server.web.ui.monitor_rows import Line
from offbeat_server.web.ui.page_base import render_part
from offbeat_server.web.ui.pages import incidents, monitor, run, system
from offbeat_server.web.ui.pages import overview as overview_page

Pair = tuple[int, int]
HISTORY_EVERY = 3 * SECOND
COUNTS_EVERY_S = 2.0


class LineTopics:
    """Monitors in one line. Keys: ids. A line also changes when it becomes late, which no row says."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: dict[int, tuple[str, Line]] = {}  # id -> (version of its pulse alone, the line)

    async def versions(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, str]:
        """Return the version of each topic, as `TopicKind` wants them."""
        ids = cast(Sequence[int], keys)
        pulses = {row["id"]: row for row in await pages.pulse(self._pool, ids)}
        changed = [id for id in pulses if not self._is_current(id, pulses[id], now)]
        if changed:
            for id, line in (await monitor_rows.fresh_lines(self._pool, changed, pulses, now)).items():
                self._known[id] = (monitor_rows.version_of(pulses[id], False), line)
        return {id: self._known[id][1].version for id in pulses if id in self._known}

    def _is_current(self, id: int, pulse: Record, now: Micros) -> bool:
        known = self._known.get(id)
        if known is None or known[0] != monitor_rows.version_of(pulse, False):
            return False
        line = known[1]
        return line.version != "0" and not (
            line.status in (Status.UP, Status.UNKNOWN) and line.due_at and now > line.due_at
        )

    async def render(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, list[Patch]]:
        """Render these topics, as `TopicKind` wants them."""
        lines = {id: self._known[id][1] for id in cast(Sequence[int], keys) if id in self._known}
        strips = await monitor_rows.strips(self._pool, lines.values(), now)
        patches: dict[TopicKey, list[Patch]] = {key: [(f"m{key}", "")] for key in keys if key not in lines}
        for count, (id, line) in enumerate(lines.items()):
            patches[id] = [(f"m{id}", render_part("line.html", line=line, strip=strips[id], now=now))]
            if count % 25 == 24:
                await asyncio.sleep(0)  # in a storm all change at once, and pings must pass
        return patches

    def keep(self, keys: set[TopicKey]) -> None:
        """Forget all topics but these."""
        for id in self._known.keys() - keys:
            del self._known[id]


class OpenIncidentTopics:
    """The open incidents. Keys: overview_page.Scope."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._shown: dict[TopicKey, dict[str, Any]] = {}

    async def versions(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, str]:
        """Return the version of each topic, as `TopicKind` wants them."""
        for key in cast(Sequence[overview_page.Scope], keys):
            self._shown[key] = await overview_page.trouble_context(self._pool, key, now)
        seen = ("open_count", "matching", "troubles")
        return {key: _hash(*(self._shown[key][name] for name in seen)) for key in keys}

    async def render(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, list[Patch]]:
        """Render these topics, as `TopicKind` wants them."""
        return {key: [("trouble", render_part("trouble_now.html", **self._shown[key]))] for key in keys}

    def keep(self, keys: set[TopicKey]) -> None:
        """Forget all topics but these."""
        for key in self._shown.keys() - keys:
            del self._shown[key]


class StatusCountTopics:
    """How many monitors there are of each status. Keys: a project, or None for all.

    Counting walks every monitor, so it is done every few seconds and takes a twentieth of the time at most.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._shown: dict[TopicKey, dict[str, int]] = {}
        self._next_at = 0.0

    async def versions(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, str]:
        """Return the version of each topic, as `TopicKind` wants them."""
        began = monotonic()
        if began >= self._next_at or any(key not in self._shown for key in keys):
            for key in cast(Sequence[int | None], keys):
                self._shown[key] = await pages.counts(self._pool, key)
            took = monotonic() - began
            self._next_at = began + max(COUNTS_EVERY_S, 20 * took)
        return {key: _hash(sorted(self._shown[key].items())) for key in keys}

    async def render(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, list[Patch]]:
        """Render these topics, as `TopicKind` wants them."""
        return {key: [("counts", render_part("counts.html", counts=self._shown[key]))] for key in keys}

    def keep(self, keys: set[TopicKey]) -> None:
        """Forget all topics but these."""
        for key in self._shown.keys() - keys:
            del self._shown[key]


class MonitorTopics:
    """How monitors are now, on their pages. Keys: (id, whether the viewer may act)."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lines = LineTopics(pool)
        self.seen: Mapping[int, str] = {}  # the versions of this second, for the histories too

    async def versions(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, str]:
        """Return the version of each topic, as `TopicKind` wants them."""
        pairs = cast(Sequence[tuple[int, bool]], keys)
        self.seen = cast(Mapping[int, str], await self._lines.versions(list({id for id, _ in pairs}), now))
        return {(id, writes): self.seen[id] for id, writes in pairs if id in self.seen}

    async def render(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, list[Patch]]:
        """Render these topics, as `TopicKind` wants them."""
        pairs = cast(Sequence[tuple[int, bool]], keys)
        rows = await _rows(self._pool, [id for id, _ in pairs])
        patches: dict[TopicKey, list[Patch]] = {}
        for id, writes in pairs:
            if id not in rows:
                patches[id, writes] = [
                    ("now", '<p class="note" data-title="Deleted · Offbeat">This monitor was deleted.</p>')
                ]
                continue
            line = monitor_rows.line_of(rows[id], None, now)
            shown = await monitor.now_context(self._pool, rows[id], line, now, writes)
            patches[id, writes] = [("now", render_part("monitor_now.html", **shown))]
        return patches

    def keep(self, keys: set[TopicKey]) -> None:
        """Forget all topics but these."""
        self._lines.keep({cast(Pair, key)[0] for key in keys})


class HistoryTopics:
    """The history of monitors, on the same pages. Keys: ids. It takes a dozen queries, so it may be seconds old."""

    def __init__(self, pool: Pool, monitors: MonitorTopics) -> None:
        self._pool, self._monitors = pool, monitors
        self._shown: dict[int, tuple[str, Micros]] = {}

    async def versions(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, str]:
        """Return the version of each topic, as `TopicKind` wants them."""
        for id in cast(Sequence[int], keys):
            version, at = self._shown.get(id, ("", 0))
            current = self._monitors.seen.get(id, version)
            if current != version and now - at >= HISTORY_EVERY:
                self._shown[id] = (current, now)
        return {id: self._shown[id][0] for id in cast(Sequence[int], keys) if id in self._shown}

    async def render(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, list[Patch]]:
        """Render these topics, as `TopicKind` wants them."""
        patches: dict[TopicKey, list[Patch]] = {}
        for id, row in (await _rows(self._pool, cast(Sequence[int], keys))).items():
            shown = await monitor.history_context(self._pool, row, monitor_rows.line_of(row, None, now), now)
            patches[id] = [("history", render_part("monitor_history.html", **shown))]
        return patches

    def keep(self, keys: set[TopicKey]) -> None:
        """Forget all topics but these."""
        for id in self._shown.keys() - keys:
            del self._shown[id]


async def _rows(pool: Pool, ids: Sequence[int]) -> dict[int, Record]:
    return {row["id"]: row for row in await overview.monitors(pool, ids=ids, limit=len(ids))}


class RunTopics:
    """Pages of runs. Keys: (monitor, number). An open run changes as time passes: its bars grow."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._followed: dict[Pair, tuple[Record, ClientRun]] = {}

    async def versions(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, str]:
        """Return the version of each topic, as `TopicKind` wants them."""
        for row in await pages.run_pulse(self._pool, cast(Sequence[Pair], keys)):
            pair = (row["monitor_id"], row["number"])
            followed = self._followed[pair][1] if pair in self._followed else ClientRun(row)
            followed.finish(row)
            self._followed[pair] = (row, followed)
        await read_new_pings(self._pool, [followed for _, followed in self._followed.values()])
        return {
            pair: _hash(row, followed.pings, now // SECOND if followed.finished_at is None else 0)
            for pair, (row, followed) in self._followed.items()
        }

    async def render(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, list[Patch]]:
        """Render these topics, as `TopicKind` wants them."""
        return {
            key: [("now", render_part("run_now.html", **run.context(*self._followed[key], now)))]
            for key in keys
            if key in self._followed
        }

    def keep(self, keys: set[TopicKey]) -> None:
        """Forget all topics but these."""
        for pair in self._followed.keys() - keys:
            del self._followed[pair]


class IncidentTopics:
    """Pages of incidents. Keys: (monitor, number, whether the viewer may act)."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def versions(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, str]:
        """Return the version of each topic, as `TopicKind` wants them."""
        wanted = cast(Sequence[tuple[int, int, bool]], keys)
        pairs = list({(monitor_id, number) for monitor_id, number, _ in wanted})
        rows = {(r["monitor_id"], r["number"]): r for r in await pages.incident_pulse(self._pool, pairs)}
        return {key: _hash(rows[key[:2]]) for key in wanted if key[:2] in rows}

    async def render(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, list[Patch]]:
        """Render these topics, as `TopicKind` wants them."""
        patches: dict[TopicKey, list[Patch]] = {}
        for monitor_id, number, writes in cast(Sequence[tuple[int, int, bool]], keys):
            row = await history.find_incident(self._pool, monitor_id, number)
            if row is not None:
                shown = await incidents.context(self._pool, row, now, writes)
                patches[monitor_id, number, writes] = [("now", render_part("incident_now.html", **shown))]
        return patches

    def keep(self, keys: set[TopicKey]) -> None:
        """Forget all topics but these."""


class SystemTopics:
    """The page of the system. One key: None."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._shown: dict[str, Any] = {}

    async def versions(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, str]:
        """Return the version of each topic, as `TopicKind` wants them."""
        self._shown = await system.context(self._pool)
        return {None: _hash(self._shown)}

    async def render(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, list[Patch]]:
        """Render these topics, as `TopicKind` wants them."""
        return {None: [("now", render_part("system_now.html", **self._shown))]}

    def keep(self, keys: set[TopicKey]) -> None:
        """Forget all topics but these."""


def all_kinds(pool: Pool) -> dict[str, TopicKind]:
    """Everything that can be watched, by name."""
    monitors = MonitorTopics(pool)
    return {
        "trouble": OpenIncidentTopics(pool),
        "counts": StatusCountTopics(pool),
        "line": LineTopics(pool),
        "monitor": monitors,
        "history": HistoryTopics(pool, monitors),
        "run": RunTopics(pool),
        "incident": IncidentTopics(pool),
        "system": SystemTopics(pool),
    }


def _hash(*parts: object) -> str:
    return f"{crc32(repr(parts).encode()):x}"
