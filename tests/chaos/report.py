"""Keeps every run in docs/chaos/runs.json, and says in docs/chaos.md and a picture what all of them came to."""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.check import FINDINGS
from tests.chaos.faults import KINDS
from tests.chaos.picture import draw
from tests.chaos.run import Outcome
from tests.harness import ROOT

RUNS = ROOT / "docs" / "chaos" / "runs.json"
PAGE = ROOT / "docs" / "chaos.md"
PICTURE = ROOT / "docs" / "chaos" / "chaos.svg"
README = ROOT / "README.md"
TOTALS = re.compile(r"(<!-- chaos -->\n)(.*?)(<!-- /chaos -->)", re.DOTALL)
Run = dict[str, Any]

HEAD = """# It survives

What Offbeat promises is broken on purpose here: real processes, a real Postgres, some hundred jobs that ping every 2 to
4 seconds and now and then really stop, and faults, one after the other. (`fsync` is on, except in the worlds `standby`
and `patroni`, where processes die and machines do not.) Every request, every answer and
every alert is written down by those who sent and received them, and compared with the tables afterwards
(`tests/chaos/check.py`; `tests/test_chaos_check.py` shows that each kind of breach would be found). After each fault
every node must be ready, answer a ping and judge it within 30 s, by itself.

`make chaos` does one run of 200 faults in about half an hour and adds it to this page; `ARGS="--help"` says what can be
chosen. Everything is drawn from the seed but what the machine does. A short run is a part of `make test`.

![what all runs came to](chaos/chaos.svg)

"""
FOUND = """
## What it has found

- A process that was frozen for 9 s (as a hypervisor, a debugger or want of memory does) judged, when it woke up, the
  silence that it had made itself: 47 false alarms of 250 jobs. Now a process notices that it stood still, and that is
  deaf time on record before anything later is.
- A node ended when Postgres was killed: asyncpg's word for a session that has said its last and is not closed yet was
  taken for an error of ours. It is trouble of the database, like any other lost connection.
- A node that was told to stop went on being keeper while it waited for the answer of a receiver that hung, or for a
  client that sent slowly: the other took over after 4.5 and 5.4 s instead of 2. Now the right to judge goes before all
  else where others wait for it: in the runs from 12000 on, and in 29 stops by hand under load, 0.1 to 1.4 s.
- Behind PgBouncer a node ended when it began to judge: the statement of its cursor had a name, and the session that it
  was lent had a statement of that name from the other node. Now such statements have none.
- A receiver that was away for some seconds was left alone for up to two minutes, and alerts came 100 s late: four
  attempts that failed in the same moment counted as four failures in a row. Now they are one (of the runs below, those
  from 7000 on have it).

One world (12000) ended early by a fault of this program: two of its own questions to Postgres met on one connection.

The first four were found by runs that ended there and are not below, nor are runs whose judge was still wrong itself.
"""
MEANINGS = """
- **lost**: a ping that was answered 2xx and is not in the log, or is there twice.
- **false**: an incident of a monitor that was heard in time, or whose job went on trying to be heard, in vain, in its
  time. Refused pings, dead nodes and our own outages are no excuse.
- **missed**: a silence or a failure with no incident, or more than one. Deaf time delays a deadline,
  and at most two occurrences in a row are excused; a silence that lasted longer than that must be told of.
- **untold**: an incident of which no message arrived, neither alone nor in a digest.
- **changed**: an alert that came in two wordings, or under two ids.
- **deaf**: deaf time that no fault explains.  **stamp**: a time in the log that is not between sending and answer.
- **duplicates** are allowed, with the same id and the same bytes: an alert whose answer was lost is sent again.
- **restored away**: a ping that was answered before the database was restored from an older backup, as documented.
- **early**: a job that has really stopped, and whose very last ping was not heard: told of, a little early.
"""


def read(path: Path) -> list[Run]:
    """Runs that were kept."""
    runs: list[Run] = json.loads(path.read_text()) if path.exists() else []
    return runs


def write(runs: list[Run]) -> None:
    """Keep these, and show them."""
    RUNS.parent.mkdir(parents=True, exist_ok=True)
    RUNS.write_text(json.dumps(runs, indent=1) + "\n")
    render(runs)


def render(runs: list[Run]) -> None:
    """Page and picture of all runs, and the totals in the README."""
    README.write_text(TOTALS.sub(lambda m: m[1] + short_totals(runs) + m[3], README.read_text()))
    PAGE.write_text(page(runs))
    draw(runs, PICTURE)


def page(runs: list[Run]) -> str:
    """docs/chaos.md."""
    return HEAD + _totals(runs) + MEANINGS + _times(runs) + _by_fault(runs) + FOUND + _all_runs(runs)


def entry(outcomes: list[Outcome]) -> Run:
    """One run as it is kept."""
    memory = psutil.virtual_memory().total
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": f"{os.cpu_count()} cores, {memory >> 30} GB, {platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "worlds": [_world(outcome) for outcome in outcomes],
    }


def _world(outcome: Outcome) -> dict[str, Any]:
    verdict = outcome.verdict
    return {
        "shape": outcome.shape,
        "seed": outcome.seed,
        "seconds": round(outcome.seconds),
        "faults": [
            {
                "name": fault.name,
                "lasted_s": round(fault.cured - fault.began, 3),
                "recovery_s": round(fault.recovery_s, 3),
                **{name: round(value, 3) for name, value in fault.said.items()},
            }
            for fault in outcome.faults
        ],
        "counts": dict(verdict.counts),
        "found": {name: len(sentences) for name, sentences in verdict.kinds.items()},
        "told_s": [round(seconds, 3) for seconds in sorted(verdict.told_s)],
        # The last line of each says what: the way to it names files of the machine, and is for who sits there.
        "troubles": [trouble.splitlines()[-1][:600] for trouble in outcome.troubles],
        "proof": [sentence for sentences in verdict.kinds.values() for sentence in sentences[:5]],
        "highest": dict(outcome.highest),
    }


def worlds(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Of all runs."""
    return [world for run in runs for world in run["worlds"]]


def counted(runs: Iterable[Run]) -> Counter[str]:
    """All counts and findings together, and the faults."""
    total: Counter[str] = Counter()
    for world in worlds(runs):
        total.update(world["counts"])
        total.update(world["found"])
        total["faults"] += len(world["faults"])
        total["troubles"] += len(world["troubles"])
        total["seconds"] += world["seconds"]
    total["pings"] = total["ok"] + total["failed"] + total["unknown"]
    return total


def measured(runs: Iterable[Run], name: str) -> list[float]:
    """All that was measured under that name, in order."""
    return sorted(fault[name] for world in worlds(runs) for fault in world["faults"] if name in fault)


def short_totals(runs: list[Run]) -> str:
    """What the README says."""
    total, crash, stop = counted(runs), measured(runs, "taken_crash_s"), measured(runs, "taken_stop_s")
    rows = [
        ("faults on real processes", f"{total['faults']:,}"),
        ("pings answered 2xx; lost", f"{total['ok']:,}; **{total['lost']}**"),
        (
            "silences and failures that had to be told; missed",
            f"{total['must'] + total['failures']:,}; **{total['missed']}**",
        ),
        ("incidents of which no message arrived", _untold(runs)),
        ("false alarms", f"**{total['false']}**"),
        ("another node is keeper after a crash; after a stop", f"{_longest(crash)}; {_longest(stop)}"),
        ("a new ping is judged by every node after the end of a fault", _longest(measured(runs, "recovery_s"))),
    ]
    return "| `make chaos`, all runs | |\n|---|---|\n" + "".join(f"| {what} | {found} |\n" for what, found in rows)


def _untold(runs: list[Run]) -> str:
    """Of the runs whose judge counted them: the first ones passed over an incident that was over before its alert."""
    counting = [world for world in worlds(runs) if "untold" in world["found"]]
    if not counting:
        return "not counted yet"
    faults = sum(len(world["faults"]) for world in counting)
    return f"**{sum(world['found']['untold'] for world in counting)}** (counted during {faults:,} of the faults)"


def _longest(values: list[float]) -> str:
    return f"median {statistics.median(values):.1f} s, longest {values[-1]:.1f} s" if values else "–"


def _totals(runs: list[Run]) -> str:
    total = counted(runs)
    lines = [
        "| in all runs | |",
        "| --- | ---: |",
        f"| runs, worlds, hours | {len(runs)}, {len(worlds(runs))}, {total['seconds'] / 3600:.1f} |",
        f"| faults | **{total['faults']:,}** |",
        f"| pings: answered 2xx | {total['ok']:,} |",
        f"| … refused; without an answer | {total['failed']:,}; {total['unknown']:,} |",
        f"| silences of which somebody had to be told; failures | {total['must']:,}; {total['failures']:,} |",
        f"| alerts delivered, of those more than once | {total['delivered']:,}, {total['duplicates']:,} |",
        *(f"| {name} | {_untold(runs) if name == 'untold' else f'**{total[name]:,}**'} |" for name in FINDINGS),
        f"| early | {total['early']:,} |",
        f"| anything else: not recovered, `/livez` not 200, over a cap | **{total['troubles']:,}** |",
    ]
    return "\n".join(lines) + "\n"


def _times(runs: list[Run]) -> str:
    told = sorted(seconds for world in worlds(runs) for seconds in world["told_s"])
    rows = [
        ("from a deadline to its alert's arrival, away from any fault", told),
        ("from the end of a fault until every node has judged a new ping", measured(runs, "recovery_s")),
        ("another node is keeper after the keeper's node was killed", measured(runs, "taken_crash_s")),
        ("… and has judged a new ping", measured(runs, "judged_crash_s")),
        ("another node is keeper after the keeper's node was told to stop", measured(runs, "taken_stop_s")),
        ("… and has judged a new ping", measured(runs, "judged_stop_s")),
        ("another node is keeper after the keeper's node was frozen", measured(runs, "taken_freeze_s")),
        ("another node is keeper after the keeper's node was cut off from Postgres", measured(runs, "taken_cut_s")),
        ("a node told to stop has ended", measured(runs, "stopped_s")),
        ("99 of 100 honest pings beside 300 slow clients", measured(runs, "honest_p99_s")),
    ]
    lines = ["\n| how long, in seconds | times | median | 95 of 100 | longest |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {text} | {len(values):,} | {statistics.median(values):.2f} | {_at(values, 0.95):.2f} | {values[-1]:.2f} |"
        for text, values in rows
        if values
    ]
    return "\n".join(lines) + "\n"


def _by_fault(runs: list[Run]) -> str:
    seen: dict[str, list[float]] = {}
    for world in worlds(runs):
        for fault in world["faults"]:
            seen.setdefault(fault["name"], []).append(fault["recovery_s"])
    lines = ["\n| fault | what is done | times | recovered after (median, longest) |", "| --- | --- | ---: | --- |"]
    for kind in sorted(KINDS.values(), key=lambda kind: (int(kind.number[1:]), kind.name)):
        times = sorted(seen.get(kind.name, []))
        span = f"{statistics.median(times):.2f} s, {times[-1]:.2f} s" if times else ""
        lines.append(f"| {kind.number} {kind.name} | {kind.text} | {len(times)} | {span} |")
    return "\n".join(lines) + "\n"


def _all_runs(runs: list[Run]) -> str:
    lines = [
        "\n## All runs\n",
        "A world: `one` node; `two` nodes; one with two `workers`; two behind PgBouncer in transaction mode",
        "(`pooled`); two with clocks that can be set, on a Postgres with such a clock (`clocks`); two on a Postgres",
        "whose disk can be filled (`disk`); two with a multi-host URL of a primary and its synchronous standby",
        "(`standby`); two behind HAProxy, on two clusters under Patroni with etcd (`patroni`).\n",
        "| when | commit | machine | worlds (seed) | faults | pings | lost | false | missed | untold | anything else |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for run in reversed(runs):
        total = counted([run])
        names = ", ".join(f"{world['shape']} ({world['seed']})" for world in run["worlds"])
        other = sum(total[name] for name in ("changed", "deaf", "stamp", "troubles"))
        lines.append(
            f"| {run['at']} | {run['commit']} | {run['machine']}, Python {run['python']} | {names} | {total['faults']} "
            f"| {total['pings']:,} | {total['lost']} | {total['false']} | {total['missed']} | {total['untold']} "
            f"| {other} |"
        )
    proof = [
        f"- {world['shape']} ({world['seed']}): {sentence}"
        for world in worlds(runs)
        for sentence in [*world["proof"], *world["troubles"]]
    ]
    return "\n".join([*lines, *(["\nWhat was found:\n", *proof] if proof else [])]) + "\n"


def _at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", "server", "schema.sql")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


if __name__ == "__main__":
    # Runs of other machines may be named, and are added.
    write([*read(RUNS), *(run for path in sys.argv[1:] for run in read(Path(path)))])
