"""Monitors that come and go: their opens wait, and most of them resolve meanwhile and cancel out.

The fifth incident within an hour is told and says what will happen; each later one is held back for ten minutes and
told only if it is still open then. So a real outage is never swallowed, only told later, and says so.
"""

from typing import Any

from server.store.outbox import Claimed, Outbox

INCIDENTS_PER_HOUR_MAX = 5
HOLD_S = 600.0


class Flapping:
    """Holds claimed alerts back where their monitor flaps."""

    def __init__(self, outbox: Outbox) -> None:
        self.hold_s = HOLD_S
        self._outbox = outbox

    async def hold_back(self, claimed: list[Claimed]) -> list[Claimed]:
        """The alerts that go out now. What is said about flapping is stored first, so that a retry says it too."""
        # The numbers of a monitor's incidents begin at 1, so a small one cannot be one of many.
        asked = {
            row.id: row
            for row in claimed
            if row.kind == "opened" and row.attempts == 1 and (row.incident or 0) >= INCIDENTS_PER_HOUR_MAX
        }
        if not asked:
            return claimed
        notes: dict[int, dict[str, Any]] = {}
        held: set[int] = set()
        for id, earlier in (await self._outbox.flapping(list(asked))).items():
            if earlier + 1 < INCIDENTS_PER_HOUR_MAX:
                continue
            late = earlier + 1 > INCIDENTS_PER_HOUR_MAX
            notes[id] = {"incidents": earlier + 1, "hold_s": self.hold_s, "held": late}
            if late and "flapping" not in asked[id].facts:
                held.add(id)
        if notes:
            await self._outbox.note(notes)
        if held:
            await self._outbox.hold(sorted(held), self.hold_s)
        return [
            row._replace(facts={**row.facts, "flapping": notes[row.id]}) if row.id in notes else row
            for row in claimed
            if row.id not in held
        ]
