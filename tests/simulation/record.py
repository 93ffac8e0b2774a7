"""The lines of long runs in results/simulation.md, and the table of the last one in docs/simulation.md."""

import re

from tests.support.harness import ROOT

RECORD = ROOT / "results" / "simulation.md"
PAGE = ROOT / "docs" / "simulation.md"
RECORDED_MIN = 1_000  # worlds; shorter runs are not recorded
TABLE = re.compile(r"(<!-- latest -->\n)(.*?)(<!-- /latest -->)", re.DOTALL)
LINE = re.compile(r"^- ([\d-]+) seeds (\d+) to (\d+): (\d+) failed(?: \[.*?\])?; (.*); \d+ s$", re.MULTILINE)


def add(line: str) -> None:
    """Append a run to the results, and show it in docs/simulation.md."""
    record = f"{RECORD.read_text().rstrip()}\n- {line}\n"
    RECORD.write_text(record)
    PAGE.write_text(TABLE.sub(lambda match: match[1] + latest(record) + match[3], PAGE.read_text()))


def latest(record: str) -> str:
    """The last run in the results, as a table."""
    day, first, last, failed, counts = LINE.findall(record)[-1]
    rows = [
        ("date", day),
        ("worlds; failed", f"{int(last) - int(first) + 1:,}; **{failed}**"),
        *((name, f"{int(count):,}") for count, name in re.findall(r"(\d+) (\w+)", counts)),
    ]
    title = f'| `make simulation SEEDS={int(last) - int(first) + 1} ARGS="--first {first}"` | |\n|---|---:|\n'
    return title + "".join(f"| {name} | {count} |\n" for name, count in rows)
