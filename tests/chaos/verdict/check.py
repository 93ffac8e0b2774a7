"""The verdict: compares what the clients and the receiver saw with what Postgres holds.

    lost      a ping that was answered 2xx and is not in the log exactly once
    false     an incident of a monitor whose ping is in the log in time, or whose job was still trying in time
    missed    a silence or a failure with no incident, or more than one
    untold    an incident of which no message arrived, alone or in a digest
    changed   one alert with two bodies, or two alerts for one event
    deaf      an outage that Offbeat has recorded and no fault explains
    stamp     a ping whose time in the log is outside of sending and answer

An outage extends a deadline. A silence with an outage *must* have an incident only if it lasted longer than the longest
possible extension, and *may* have one as soon as its deadline has passed. There are no other exceptions.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from tests.chaos.verdict.journal import (
    AlertRow,
    Delivery,
    Fault,
    Incident,
    Journal,
    OutageRow,
    Row,
    Stored,
    Try,
    Watched,
)

SLACK_S = 1.0  # a ping that was sent this long before the deadline is in time
DECIDED_S = 5.0  # what happened this long before the tables were read must be decided and written
SHADOW_S = 4.0  # the effects of a fault may begin this long before it and last this long after its recovery
# The error of log time is the round trip in which the database's clock was last read. A slow round trip, as while a
# node starts on a busy machine, is corrected at the next pulse.
STAMP_S = 1.0
CLIENT_S = 10.0  # a request may wait this long until a node reads it, after its client has given up
T = TypeVar("T", Row, Try, Incident, AlertRow)
FINDINGS = ("lost", "false", "missed", "untold", "changed", "deaf", "stamp")
# Incidents within an hour that are sent at once; later ones are held (server/offbeat_server/notify/flapping.py).
FLAPPING_MIN = 5


@dataclass
class Verdict:
    """The findings, as sentences. All lists must be empty."""

    lost: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    deaf: list[str] = field(default_factory=list)
    stamp: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    told_s: list[float] = field(default_factory=list)  # from the deadline to the alert's arrival, away from any fault

    @property
    def kinds(self) -> dict[str, list[str]]:
        """By name."""
        return {name: getattr(self, name) for name in FINDINGS}

    @property
    def ok(self) -> bool:
        """Whether there are no findings."""
        return not any(self.kinds.values())


def judge(journal: Journal, stored: Stored) -> Verdict:
    """Run all checks. Pings younger than `DECIDED_S` must be in the log, and are checked no further."""
    verdict = Verdict()
    _pings(verdict, journal, stored)
    rows, tries = _by_monitor(stored.rows), _by_monitor(journal.tries)
    incidents, alerts = _by_monitor(stored.incidents), _by_monitor(stored.alerts)
    delivered_alerts = _deliveries(verdict, journal)
    for id, monitor in journal.watched.items():
        own = sorted(incidents[id], key=lambda incident: incident.opened)
        revised = [each.number for each in own if each.revised]
        if revised:
            verdict.false.append(f"{monitor.slug} {revised}: revised, so states and incidents differed")
        pings = sorted(row.at for row in rows[id])
        failed = sorted(row.at for row in rows[id] if row.fails)
        missed = [each for each in own if not any(abs(at - each.opened) < 1e-3 for at in failed)]
        _false(verdict, journal, monitor, pings, tries[id], missed)
        _failures(verdict, journal, stored, monitor, failed, own)
        _missed(verdict, journal, stored, monitor, pings, tries[id], own)
        _alerts(verdict, journal, stored, monitor, own, alerts[id], delivered_alerts)
    _digests(verdict, journal, stored)
    _outages(verdict, journal, stored.outages)
    return verdict


# --------------------------------------------------------------------------------------------------------------- pings


def _pings(verdict: Verdict, journal: Journal, stored: Stored) -> None:
    copies = Counter(row.id for row in stored.rows)
    stamps = {row.id: row.at for row in stored.rows}
    verdict.counts.update(each.answer for each in journal.tries if each.ended)
    for each in journal.tries:
        count = copies[each.id]
        if count == 0 and each.answer == "ok" and journal.restored_away(each):
            verdict.counts["restored away"] += 1
        elif count > 1 or (each.answer == "ok" and count != 1 and each.ended < stored.read_at):
            verdict.lost.append(f"{each.id} of monitor {each.monitor}, answered {each.answer}, is there {count} times")
        if each.answer == "ok" and count == 1:
            reals = journal.reals(stamps[each.id])
            if not any(each.sent - STAMP_S <= real <= each.ended + STAMP_S for real in reals):
                verdict.stamp.append(f"{each.id}: at {reals}, sent {each.sent}, answered {each.ended}")


# ------------------------------------------------------------------------------------------------------------- silence


def _false(
    verdict: Verdict, journal: Journal, monitor: Watched, pings: list[float], tries: list[Try], own: list[Incident]
) -> None:
    for incident in own:
        name = f"{monitor.slug} incident {incident.number} ({incident.cause}, opened {incident.opened:.3f})"
        since = incident.opened - monitor.patience_s
        index = bisect_right(pings, incident.opened)
        if index and pings[index - 1] > since + 1e-3:
            verdict.false.append(f"{name}: the log has a ping at {pings[index - 1]:.3f}")
            continue
        claims = [(real - monitor.window_s, real - SLACK_S) for real in journal.reals(incident.opened)]
        vain = [[each.sent for each in tries if start < each.sent < end] for start, end in claims]
        if not all(vain):
            continue
        last = max(max(sent) for sent in vain)
        if any(last < each.sent <= last + monitor.patience_s for each in tries):
            verdict.false.append(f"{name}: its job went on trying, before it last at {last:.3f}")
        else:
            verdict.counts["early"] += 1  # its last ping did not arrive, and it really stopped


def _failures(
    verdict: Verdict,
    journal: Journal,
    stored: Stored,
    monitor: Watched,
    failed: list[float],
    own: list[Incident],
) -> None:
    """A job that says that it has failed must have an incident from then on."""
    now = journal.log(stored.read_at - DECIDED_S)
    for at in failed:
        verdict.counts["failures"] += 1
        if at < now and not any(_open_at(incident, at) for incident in own):
            verdict.missed.append(f"{monitor.slug}: it has said that it failed at {at:.3f}, and there is no incident")


def _open_at(incident: Incident, at: float) -> bool:
    return incident.opened <= at + 1e-3 and (incident.resolved is None or incident.resolved > at + 1e-3)


def _missed(
    verdict: Verdict,
    journal: Journal,
    stored: Stored,
    monitor: Watched,
    pings: list[float],
    tries: list[Try],
    own: list[Incident],
) -> None:
    """Between two pings there is at most one incident, and exactly one if the silence was long enough."""
    now = max(journal.log(stored.read_at - DECIDED_S), pings[-1] if pings else 0.0)
    sent = sorted(each.sent for each in tries)
    for since, until in zip(pings, [*pings[1:], now], strict=True):
        if until - since <= monitor.patience_s:
            continue
        if any(_open_at(incident, since) for incident in own):
            continue  # its last ping said that it failed: then its silence is no second incident
        opened = [incident for incident in own if since < incident.opened <= until]
        verdict.counts["silences"] += 1
        if len(opened) > 1:
            verdict.missed.append(f"{monitor.slug}: {len(opened)} incidents between {since:.3f} and {until:.3f}")
        delay_s, touched = _delay(stored.outages, since, until, monitor)
        must = since + monitor.patience_s + delay_s < until - SLACK_S
        if must and opened == []:
            verdict.missed.append(
                f"{monitor.slug}: silent from {since:.3f} to {until:.3f}, at most {delay_s:.3f} s of delay, no incident"
            )
        if opened and not touched and abs(opened[0].opened - since - monitor.patience_s) > 1e-3:
            verdict.missed.append(
                f"{monitor.slug}: opened {opened[0].opened:.3f}, last ping {since:.3f}, no outage near it"
            )
        verdict.counts["must"] += must
    if journal.readings:  # the clock of the log was set, so times of clients cannot be compared with it
        return
    # By the journal of the clients alone, in case the rows are wrong.
    for since, until in pairwise([*sent, stored.read_at - DECIDED_S]):
        longest_s = monitor.patience_s + _delay(stored.outages, since, until, monitor)[0] + CLIENT_S
        delivered_alerts = any(
            each.opened <= until and (each.resolved is None or each.resolved > since) for each in own
        )
        if until - since > longest_s and not delivered_alerts:
            verdict.missed.append(f"{monitor.slug}: no try from {since:.3f} to {until:.3f} and no incident")


def _delay(outages: list[OutageRow], since: float, until: float, monitor: Watched) -> tuple[float, bool]:
    """The longest extension of the deadline of a silence by outages, and whether any outage was near it."""
    near = [each for each in outages if each.end > since and each.start <= until]
    if not near:
        return 0.0, False
    total_s = sum(each.end - max(each.start, since) for each in near)
    # An occurrence is excused if outages cover more than half of its window, at most two in a row; then another begins.
    return total_s + (2 * monitor.patience_s if total_s > monitor.window_s / 2 else 0.0), True


# -------------------------------------------------------------------------------------------------------------- alerts


Deliveries = dict[tuple[str, int, str], list[Delivery]]


def _deliveries(verdict: Verdict, journal: Journal) -> Deliveries:
    """The first delivery of each alert, by monitor, incident and kind; several only after a restore from a backup."""
    bodies: dict[str, Delivery] = {}
    delivered_alerts: Deliveries = defaultdict(list)
    for each in journal.deliveries:
        before = bodies.get(each.id)
        if before is None:
            bodies[each.id] = each
        else:
            verdict.counts["duplicates"] += 1
            if before.body != each.body:
                verdict.changed.append(f"{each.id} came with two bodies: {before.body!r} and {each.body!r}")
        if each.incident and each.kind in ("opened", "resolved"):
            known = delivered_alerts[each.slug, each.incident, each.kind]
            epoch = journal.epoch(each.at)
            first = next((one for one in known if journal.epoch(one.at) == epoch), None)
            if first is None:
                known.append(each)
            elif first.id != each.id:
                verdict.changed.append(f"{each.kind} of {each.slug} {each.incident} as {first.id} and as {each.id}")
    verdict.counts["delivered"] = len(bodies)
    return delivered_alerts


def _alerts(
    verdict: Verdict,
    journal: Journal,
    stored: Stored,
    monitor: Watched,
    own: list[Incident],
    alerts: list[AlertRow],
    delivered_alerts: Deliveries,
) -> None:
    states = {(alert.incident, alert.kind): alert.state for alert in alerts}
    for incident in own:
        # A decision may be written a moment after it was made.
        if max(journal.reals(incident.decided)) > stored.settled_before - DECIDED_S:
            continue
        state = states.get((incident.number, "opened"))
        opened = max(journal.reals(incident.opened))
        deliveries = delivered_alerts.get((monitor.slug, incident.number, "opened"), [])
        epoch = journal.epoch(max(journal.reals(incident.decided)))
        arrived = next((each for each in deliveries if journal.epoch(each.at) >= epoch), None)
        name = f"{monitor.slug} {incident.number}"
        if state == "digest":
            verdict.counts["in digests"] += 1
        elif state == "delivered" and arrived is None:
            verdict.untold.append(f"{name}: counts as delivered and never arrived")
        elif state in (None, "collapsed", "dead", "expired"):
            verdict.untold.append(f"{name}: its alert is {state}")
        elif state == "held" and incident.number > FLAPPING_MIN:
            verdict.counts["held"] += 1
        elif state in ("pending", "held"):
            verdict.untold.append(f"{name}: its alert still waits")
        faults = journal.faults
        if arrived is not None and not any(_near(each, opened) or _near(each, arrived.at) for each in faults):
            verdict.told_s.append(arrived.at - opened)


def _digests(verdict: Verdict, journal: Journal, stored: Stored) -> None:
    """Compare the digests at the receiver with the alerts that count as delivered in digests."""
    opened = {each.id: each.opened for each in journal.deliveries}
    delivered = sum(alert.kind == "opened" and alert.state == "digest" for alert in stored.alerts)
    if sum(opened.values()) < delivered:
        verdict.untold.append(f"{delivered} incidents count as delivered in digests, which name {sum(opened.values())}")


def _near(fault: Fault, at: float) -> bool:
    return fault.began - SHADOW_S <= at <= max(fault.recovered, fault.cured) + SHADOW_S


def _outages(verdict: Verdict, journal: Journal, outages: list[OutageRow]) -> None:
    for each in outages:
        verdict.counts["deaf_ms"] += round((each.end - each.start) * 1000)
        ends = [real for end in (each.start, each.end) for real in journal.reals(end)]
        if not all(any(_near(fault, end) for fault in journal.faults) for end in ends):
            verdict.deaf.append(f"outage ({each.reason}) from {each.start:.3f} to {each.end:.3f} without a fault")


def _by_monitor(all_of_them: list[T]) -> dict[int, list[T]]:
    by_monitor: dict[int, list[T]] = defaultdict(list)
    for each in all_of_them:
        by_monitor[each.monitor].append(each)
    return by_monitor
