"""The numbers in the pages of `docs/concepts/` are those of the code."""

import pytest

from offbeat_server.common.clock import JUMP_MAX
from offbeat_server.common.instants import SECOND
from offbeat_server.engine.model.definition import RUNTIME_DEFAULT, Definition
from offbeat_server.engine.rules.deadlines import EXCUSED_MAX
from offbeat_server.engine.rules.notifications import NOTIFY_AGAIN_MIN, NOTIFY_DOUBLED_MIN
from offbeat_server.ingest.log_writer.writer import SLOW_S, STALL_S
from offbeat_server.ingest.protocols.parsing.message import WHOLE_BYTES_MAX
from offbeat_server.notify.channel_queue import BACKOFF_S, BURST_MAX, BURST_REFILL_S, DIGEST_GAPS_S, URGENT_GAPS_S
from offbeat_server.notify.channels.registry import KINDS
from offbeat_server.notify.flapping import HOLD_S, INCIDENTS_PER_HOUR_MAX
from offbeat_server.notify.messages.message_builder import MONITORS_NAMED_MAX
from offbeat_server.scheduler.outages import WORTH_TELLING
from tests.support.harness import ROOT

_WORDS = {0.5: "half a", 1: "a", 2: "two", 3: "third", 5: "five"}
_NTH = {5: "fifth"}
SENTENCES = {
    "deadlines.md": [
        f"by default {Definition().grace // (60 * SECOND)} minute",
        f"{RUNTIME_DEFAULT // (3_600 * SECOND)} hours",
    ],
    "outages.md": [
        f"jumps forward by more than {JUMP_MAX // SECOND} seconds",
        f"took more than {_WORDS[SLOW_S]} second",
        f"frozen for more than {_WORDS[STALL_S]} second",
        f"more than {WORTH_TELLING // SECOND} seconds alerts the operator",
        f"At most {_WORDS[EXCUSED_MAX]} in a row are excused",
        f"reported by the {_WORDS[EXCUSED_MAX + 1]} at the latest",
    ],
    "delivery.md": [
        f"at most {_WORDS[BURST_MAX]} messages in a burst, then one every {_WORDS[BURST_REFILL_S]} seconds",
        f"more than {_WORDS[BURST_MAX]} alerts wait",
        f"names up to {MONITORS_NAMED_MAX} monitors",
        f"sent within {URGENT_GAPS_S[-1]:g} seconds",
        f"at most {DIGEST_GAPS_S[-1]:g} seconds",
        f"grow up to {BACKOFF_S[-1] / 60:g} minutes",
        f"opens its {_NTH[INCIDENTS_PER_HOUR_MAX]} incident within an hour",
        f"held back for {HOLD_S / 60:g} minutes",
        f"at the earliest {NOTIFY_AGAIN_MIN // (60 * SECOND)} minutes after the last alert",
        f"{NOTIFY_DOUBLED_MIN // (60 * SECOND)} minute if the number missing more than doubled",
    ],
    "differences.md": [f"at most {WHOLE_BYTES_MAX // 1_000} kB each"],
}


@pytest.mark.parametrize("page", SENTENCES)
def test_a_page_has_the_numbers_of_the_code(page: str) -> None:
    text = " ".join((ROOT / "docs" / "concepts" / page).read_text().split())
    missing = [sentence for sentence in SENTENCES[page] if sentence not in text]
    assert not missing, f"the page says otherwise: {missing}"


@pytest.mark.parametrize("page", ["concepts/delivery.md", "semantics.md"])
def test_the_services_that_keep_incidents_are_named(page: str) -> None:
    kinds = [f"`{name}`" for name, kind in KINDS.items() if kind.keeps_incidents]
    text = (ROOT / "docs" / page).read_text()
    lines = [line for line in text.splitlines() if "one incident for a digest" in line.lower()]
    assert len(kinds) > 1 and len(lines) == 1
    assert [kind for kind in (f"`{name}`" for name in KINDS) if kind in lines[0].replace("`alertmanager`", "")] == kinds
