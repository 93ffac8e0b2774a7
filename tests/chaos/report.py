"""Keeps every run in results/chaos.json, and writes docs/chaos.md and a picture of all runs."""

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
from tests.support.harness import ROOT

RUNS = ROOT / "results" / "chaos.json"
# The names on the page of findings whose names in the stored runs are older.
SHOWN = {"untold": "unreported", "deaf": "unexplained outage", "stamp": "wrong time"}
PAGE = ROOT / "docs" / "chaos.md"
PICTURE = ROOT / "docs" / "chaos" / "chaos.svg"
GUARANTEES = ROOT / "docs" / "concepts" / "guarantees.md"
TOTALS = re.compile(r"(<!-- chaos -->\n)(.*?)(<!-- /chaos -->)", re.DOTALL)
Run = dict[str, Any]

# In runs before this time a receiver that had failed was left alone for up to two minutes; FOUND has the cause.
RETRIES_FIXED = "2026-11-24T12:53"

HEAD = """# Chaos runs

These runs inject faults into a real installation: real server processes, a real Postgres, and some hundred jobs that
ping every 2 to 4 seconds and sometimes really stop. The faults follow one another. Clients and receivers keep a journal
of every request, every answer and every alert. After the faults the journal is compared with the tables
(`tests/chaos/check.py`). `tests/chaos/test_chaos_check.py` shows that each kind of error would be found. After each
fault every node must be ready, answer a ping and evaluate it within 30 s, without help. `fsync` is on, except in the
worlds `standby` and `patroni`: there processes die, and machines do not.

`make chaos` runs all worlds with 20 faults each, in about half an hour, and adds the run to this page.
`make chaos ARGS="--help"` lists the options. The seed decides everything that the machine does not. A short run is part
of `make test`.

![Results of all runs](chaos/chaos.svg)

"""
FOUND = """
## Errors that the runs have found

- A process was frozen for 9 s (as by a hypervisor, a debugger or memory pressure). When it continued, it evaluated
  the silence that it had caused itself: 47 false alarms of 250 jobs. Now a process notices that it stood still, and
  records this time as an outage before it evaluates anything later.
- A node ended when Postgres was killed. asyncpg's exception for a connection that Postgres has terminated but not yet
  closed was treated as an internal error. It is now treated like any other lost connection.
- A node that was stopping stayed the scheduler while it waited for a receiver that hung or for a client that sent
  slowly. The other node took over after 4.5 and 5.4 s instead of 2 s. Now a stopping node gives up its leases first:
  0.1 to 1.4 s in 29 stops by hand under load, and in the runs from seed 12000 on.
- Behind PgBouncer a node ended when it became the scheduler. The statement of its cursor had a name, and the session
  that PgBouncer assigned already had a statement of that name from the other node. Now such statements have no name.
- A receiver failed for some seconds and then got no alert for up to two minutes: four attempts that failed at the same
  moment counted as four consecutive failures. Now they count as one. The runs before this change (seeds below 7000)
  have the longest times from a deadline to its alert, up to 101.79 s; the table of times shows them in a row of their
  own.
- A node with a multi-host URL ended when the primary hung and the URL named the standby first. asyncpg's exception for
  "no host is a primary" was treated as an internal error. It is now treated as a database that is away. The same
  exception kept a node for up to 5 s at a former primary that had become a standby.

One world (12000) ended early because of an error in this program: two of its own queries used one connection.

All errors except the one about the receiver were found by runs that ended there. These runs are not listed below, and
neither are runs that ended because of an error in this program or in Patroni (`tests/support/patroni.py` names it).
"""
BOUND = """
The first alert of a monitor waits at most 10 s if its channel accepts messages ([Sending](semantics.md#sending))."""
MEANINGS = """
- **lost**: a ping was answered 2xx, and the log does not have it exactly once.
- **false**: an incident of a monitor whose ping is in the log in time, or whose job was still trying to send a ping in
  time. Refused pings, dead nodes and our own outages are no excuse.
- **missed**: a silence or a failure without an incident, or with more than one. An outage extends a deadline, and at
  most two occurrences in a row are excused; a silence that lasted longer must have an incident.
- **unreported**: an incident of which no message arrived, neither alone nor in a digest.
- **changed**: an alert that arrived with two bodies, or under two ids.
- **unexplained outage**: an outage on record that no fault explains.
- **wrong time**: a time in the log that is not between the sending of the ping and its answer.
- **duplicates** are allowed, with the same id and the same bytes: an alert whose answer was lost is sent again.
- **restored away**: a ping that was answered after the backup began from which the database was restored. These pings
  are gone, as documented.
- **early**: a job really stopped, and its last ping did not arrive. The incident opened a little early.
"""


def read(path: Path) -> list[Run]:
    """Runs that were kept."""
    runs: list[Run] = json.loads(path.read_text()) if path.exists() else []
    return runs


def write(runs: list[Run]) -> None:
    """Store these runs and write the page."""
    RUNS.parent.mkdir(parents=True, exist_ok=True)
    RUNS.write_text(json.dumps(runs, indent=1) + "\n")
    render(runs)


def render(runs: list[Run]) -> None:
    """Page and picture of all runs, and the totals in the page of guarantees."""
    GUARANTEES.write_text(TOTALS.sub(lambda m: m[1] + short_totals(runs) + m[3], GUARANTEES.read_text()))
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
        # The last line of each names the error; the traceback names files of the machine.
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
    """All values that were measured under a name, sorted."""
    return sorted(fault[name] for world in worlds(runs) for fault in world["faults"] if name in fault)


def short_totals(runs: list[Run]) -> str:
    """The table in the page of guarantees."""
    total, crash, stop = counted(runs), measured(runs, "taken_crash_s"), measured(runs, "taken_stop_s")
    rows = [
        ("faults on real processes", f"{total['faults']:,}"),
        ("pings answered 2xx; lost", f"{total['ok']:,}; **{total['lost']}**"),
        (
            "silences and failures that had to be alerted; missed",
            f"{total['must'] + total['failures']:,}; **{total['missed']}**",
        ),
        ("incidents of which no message arrived", _untold(runs)),
        ("false alarms", f"**{total['false']}**"),
        ("another node is scheduler after a crash; after a stop", f"{_longest(crash)}; {_longest(stop)}"),
        ("every node has evaluated a new ping after the end of a fault", _longest(measured(runs, "recovery_s"))),
    ]
    return "| `make chaos`, all runs | |\n|---|---|\n" + "".join(f"| {what} | {found} |\n" for what, found in rows)


def _untold(runs: list[Run]) -> str:
    """Of the runs that counted them: the first runs did not look at incidents that resolved before their alert."""
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
        f"| … answered, and later restored away | {total['restored away']:,} |",
        f"| silences that had to be alerted; failures | {total['must']:,}; {total['failures']:,} |",
        f"| alerts delivered; duplicates | {total['delivered']:,}; {total['duplicates']:,} |",
        *(
            f"| {SHOWN.get(name, name)} | {_untold(runs) if name == 'untold' else f'**{total[name]:,}**'} |"
            for name in FINDINGS
        ),
        f"| early | {total['early']:,} |",
        f"| anything else: not recovered, `/livez` not 200, over a cap | **{total['troubles']:,}** |",
    ]
    return "\n".join(lines) + "\n"


def _times(runs: list[Run]) -> str:
    early = [run for run in runs if run["at"] < RETRIES_FIXED]
    late = [run for run in runs if run["at"] >= RETRIES_FIXED]
    rows = [
        ("from a deadline to the arrival of its alert, away from any fault", _told_s(late)),
        ("… in the runs with seeds below 7000 (see the errors below)", _told_s(early)),
        ("from the end of a fault until every node has evaluated a new ping", measured(runs, "recovery_s")),
        ("from the promotion of a standby until every node has evaluated a new ping", measured(runs, "failover_s")),
        ("from the end of the leader until Patroni has promoted the replica", measured(runs, "promoted_s")),
        ("another node is scheduler after the scheduler's node was killed", measured(runs, "taken_crash_s")),
        ("… and has evaluated a new ping", measured(runs, "judged_crash_s")),
        ("another node is scheduler after the scheduler's node got SIGTERM", measured(runs, "taken_stop_s")),
        ("… and has evaluated a new ping", measured(runs, "judged_stop_s")),
        ("another node is scheduler after the scheduler's node was frozen", measured(runs, "taken_freeze_s")),
        (
            "another node is scheduler after the scheduler's node was cut off from Postgres",
            measured(runs, "taken_cut_s"),
        ),
        ("a node has ended after SIGTERM", measured(runs, "stopped_s")),
        ("99 of 100 honest pings beside 300 slow clients", measured(runs, "honest_p99_s")),
    ]
    lines = ["\n| time in seconds | times | median | 95 of 100 | longest |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {text} | {len(values):,} | {statistics.median(values):.2f} | {_at(values, 0.95):.2f} | {values[-1]:.2f} |"
        for text, values in rows
        if values
    ]
    return "\n".join([*lines, BOUND]) + "\n"


def _told_s(runs: list[Run]) -> list[float]:
    return sorted(seconds for world in worlds(runs) for seconds in world["told_s"])


def _by_fault(runs: list[Run]) -> str:
    seen: dict[str, list[float]] = {}
    for world in worlds(runs):
        for fault in world["faults"]:
            seen.setdefault(fault["name"], []).append(fault["recovery_s"])
    lines = ["\n| fault | action | times | recovered after (median, longest) |", "| --- | --- | ---: | --- |"]
    for kind in sorted(KINDS.values(), key=lambda kind: (int(kind.number[1:]), kind.name)):
        times = sorted(seen.get(kind.name, []))
        span = f"{statistics.median(times):.2f} s, {times[-1]:.2f} s" if times else ""
        lines.append(f"| {kind.number} {kind.name} | {kind.text} | {len(times)} | {span} |")
    return "\n".join(lines) + "\n"


def _all_runs(runs: list[Run]) -> str:
    lines = [
        "\n## All runs\n",
        "The worlds: `one` node; `two` nodes; one node with two `workers`; two nodes behind PgBouncer in transaction",
        "mode (`pooled`); two nodes and a Postgres whose clocks can be set (`clocks`); two nodes and a Postgres whose",
        "disk can be filled (`disk`); two nodes with a multi-host URL of a primary and its synchronous standby",
        "(`standby`); two nodes behind HAProxy, with two clusters under Patroni and etcd (`patroni`).\n",
        "| when | commit | machine | worlds (seed) | faults | pings | lost | false | missed | unreported "
        "| anything else |",
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
    return "\n".join([*lines, *(["\nFindings:\n", *proof] if proof else [])]) + "\n"


def _at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", "client", "server", "schema.sql")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


if __name__ == "__main__":
    # Runs of other machines may be named, and are added.
    write([*read(RUNS), *(run for path in sys.argv[1:] for run in read(Path(path)))])
