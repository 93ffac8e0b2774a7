"""Monitors that come and go: their openings are held back for a while and reported together.

The alert of the fifth incident within an hour says what will happen. Each later one waits until ten minutes after the
first that waits. Then those that are over are reported in one message, and one that is still open by an alert that says
so. So every incident is reported. Only channels whose alerts may be combined hold back; in others each is sent alone.
"""

from offbeat_server.db.repositories.outbox import Claimed, Outbox
from offbeat_server.engine.model.alert_payload import FlappingPayload
from offbeat_server.engine.model.enums import AlertKind

INCIDENTS_PER_HOUR_MAX = 5
HOLD_S = 600.0


class Flapping:
    """Holds claimed alerts back where their monitor flaps."""

    def __init__(self, outbox: Outbox) -> None:
        self.hold_s = HOLD_S
        self._outbox = outbox

    async def hold_back(self, claimed: list[Claimed], holding: set[int]) -> list[Claimed]:
        """The alerts that go out now; only those of the lanes `holding` may wait.

        The note about flapping is stored first, so that a retry has it too.
        """
        # The numbers of a monitor's incidents begin at 1, so a small one cannot be one of many.
        candidates = {
            row.id: row
            for row in claimed
            if row.kind == AlertKind.OPENED
            and row.attempts == 1
            and (row.incident or 0) >= INCIDENTS_PER_HOUR_MAX
            and row.lane in holding
        }
        if not candidates:
            return claimed
        notes: dict[int, FlappingPayload] = {}
        held: set[int] = set()
        for id, earlier in (await self._outbox.flapping(list(candidates))).items():
            if earlier + 1 < INCIDENTS_PER_HOUR_MAX:
                continue
            late = earlier + 1 > INCIDENTS_PER_HOUR_MAX
            notes[id] = {"incidents": earlier + 1, "hold_s": self.hold_s, "held": late}
            if late and "flapping" not in candidates[id].facts:
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
