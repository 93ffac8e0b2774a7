"""The checks of the chaos runs find nothing in a history without errors, and find every kind of error."""

import asyncio
import random
import traceback
from dataclasses import replace

import pytest

from tests.chaos import report
from tests.chaos.faults.registry import draw, kinds_for
from tests.chaos.run import Outcome
from tests.chaos.verdict.check import Verdict, judge
from tests.chaos.verdict.journal import (
    AlertRow,
    Delivery,
    Fault,
    Incident,
    Journal,
    OutageRow,
    Reading,
    Restore,
    Row,
    Stored,
    Try,
    Watched,
)
from tests.chaos.world.nodes import SHAPES
from tests.support.harness import ROOT

T0 = 1_000.0
JOB = Watched("job", 1, "key", every_s=4.0, grace_s=4.0, period_s=2.5)
SILENT = (1_050.0, 1_080.0)  # of the job, really


def history() -> tuple[Journal, Stored]:
    """A job that pings every 2.5 s from 1000 to 1200 and is silent for 30 s, with an alert 8 s into that."""
    at = [T0 + 2.5 * n for n in range(80) if not SILENT[0] < T0 + 2.5 * n < SILENT[1]]
    tries = [Try(f"p{n}", JOB.id, sent, sent + 0.01, "ok") for n, sent in enumerate(at)]
    rows = [Row(each.id, JOB.id, each.sent + 0.005) for each in tries]
    opened = SILENT[0] + 0.005 + JOB.patience_s
    incident = Incident(JOB.id, 1, "missed", opened, SILENT[1] + 0.005, opened + 0.02, False)
    deliveries = [
        Delivery("alert_1", "job", 1, "opened", b"down", opened + 0.1),
        Delivery("alert_2", "job", 1, "resolved", b"up", SILENT[1] + 0.1),
    ]
    alerts = [AlertRow(JOB.id, 1, "opened", "delivered"), AlertRow(JOB.id, 1, "resolved", "delivered")]
    journal = Journal({JOB.id: JOB}, tries, deliveries)
    return journal, Stored(rows, [incident], alerts, [], 1_201.0, 1_200.0)


def in_a_digest(journal: Journal, stored: Stored, number: int) -> None:
    """The alert of an incident was delivered in a digest."""
    stored.alerts.append(AlertRow(JOB.id, number, "opened", "digest"))
    journal.deliveries.append(Delivery("digest_1", "", 0, "digest", b"one opened", 1_199.0, 1))


def found(verdict: Verdict) -> set[str]:
    """The kinds of what is not as promised."""
    return {name for name, sentences in verdict.kinds.items() if sentences}


def test_a_history_without_errors_has_no_findings() -> None:
    verdict = judge(*history())
    assert verdict.ok, verdict
    assert verdict.counts["must"] == verdict.counts["silences"] == 1 and verdict.counts["ok"] == 69
    assert verdict.told_s == [pytest.approx(0.1)]


def test_an_answered_ping_that_is_not_stored_is_lost() -> None:
    journal, stored = history()
    stored.rows.pop(40)
    assert found(judge(journal, stored)) == {"lost"}


def test_a_ping_that_is_stored_twice_is_as_bad_also_without_an_answer() -> None:
    journal, stored = history()
    stored.rows.append(stored.rows[40])
    journal.tries[40].answer = "unknown"
    assert found(judge(journal, stored)) == {"lost"}


def test_a_ping_without_an_answer_may_be_stored_or_not() -> None:
    journal, stored = history()
    journal.tries[40].answer = "unknown"
    assert judge(journal, stored).ok
    stored.rows.pop(40)
    journal.tries[40].answer = "failed"
    assert judge(journal, stored).ok


def test_a_ping_of_the_time_between_a_backup_and_its_restore_may_be_gone_and_no_other() -> None:
    journal, stored = history()
    gone = next(index for index, row in enumerate(stored.rows) if row.at > 1_150)
    at = stored.rows.pop(gone).at
    assert found(judge(journal, stored)) == {"lost"}
    journal.restores.append(Restore(at - 5, at - 1))
    assert found(judge(journal, stored)) == {"lost"}
    journal.restores.append(Restore(at - 1, at + 1))
    verdict = judge(journal, stored)
    assert verdict.ok and verdict.counts["restored away"] == 1


def test_after_a_restore_an_incident_may_have_the_number_of_another_and_no_alert_the_id_of_another() -> None:
    journal, stored = history()
    first = journal.deliveries[0]
    again = first._replace(id="alert_9", body=b"down again", at=first.at + 60)
    journal.deliveries.append(again)
    assert found(judge(journal, stored)) == {"changed"}
    journal.restores.append(Restore(first.at + 30, first.at + 31))
    assert judge(journal, stored).ok
    journal.deliveries[-1] = again._replace(id=first.id)
    assert found(judge(journal, stored)) == {"changed"}


def test_an_invented_incident_is_false() -> None:
    journal, stored = history()
    stored.incidents.append(Incident(JOB.id, 2, "missed", 1_150.0, 1_151.0, 1_150.1, False))
    in_a_digest(journal, stored, 2)
    assert found(judge(journal, stored)) == {"false"}


def test_an_incident_of_a_job_whose_pings_were_all_refused_is_false() -> None:
    journal, stored = history()
    for each in journal.tries:
        if 1_120 <= each.sent <= 1_140:
            each.answer = "failed"
    stored = replace(stored, rows=[row for row in stored.rows if not 1_120 < row.at < 1_140.1])
    last = max(row.at for row in stored.rows if row.at < 1_120)
    opened = last + JOB.patience_s
    stored.incidents.append(Incident(JOB.id, 2, "missed", opened, 1_140.005, opened, False))
    in_a_digest(journal, stored, 2)
    assert found(judge(journal, stored)) == {"false"}


def test_an_incident_that_is_a_little_early_is_not_false_where_the_job_has_stopped_indeed() -> None:
    journal, stored = history()
    lost = next(row for row in stored.rows if SILENT[0] - 0.1 < row.at < SILENT[0] + 0.1)
    stored.rows.remove(lost)
    next(each for each in journal.tries if each.id == lost.id).answer = "failed"
    last_ping = lost.at - 2.5
    stored.incidents[0] = stored.incidents[0]._replace(opened=last_ping + JOB.patience_s)
    verdict = judge(journal, stored)
    assert verdict.ok and verdict.counts["early"] == 1, verdict


def test_a_swallowed_incident_is_missed() -> None:
    journal, stored = history()
    stored.incidents.clear()
    assert found(judge(journal, stored)) == {"missed"}


def test_two_incidents_of_one_silence_are_one_too_many() -> None:
    journal, stored = history()
    stored.incidents.append(stored.incidents[0]._replace(number=2, opened=stored.incidents[0].opened + 10))
    in_a_digest(journal, stored, 2)
    assert "missed" in found(judge(journal, stored))


def test_a_failure_needs_an_incident_and_an_incident_a_failure() -> None:
    journal, stored = history()
    at = stored.rows[50].at
    stored.rows[50] = stored.rows[50]._replace(fails=True)
    assert found(judge(journal, stored)) == {"missed"}
    stored.incidents.append(Incident(JOB.id, 2, "failed", at, at + 2.5, at + 0.1, False))
    in_a_digest(journal, stored, 2)
    assert judge(journal, stored).ok
    stored.rows[50] = stored.rows[50]._replace(fails=False)
    assert found(judge(journal, stored)) == {"false"}


def test_an_incident_that_opens_late_for_no_reason_is_missed() -> None:
    journal, stored = history()
    stored.incidents[0] = stored.incidents[0]._replace(opened=stored.incidents[0].opened + 2)
    assert found(judge(journal, stored)) == {"missed"}


@pytest.mark.parametrize("state", ["pending", "held", "dead", "expired", "collapsed", "delivered"])
def test_an_incident_without_an_alert_is_found(state: str) -> None:
    journal, stored = history()
    journal.deliveries.clear()
    stored.alerts[0] = stored.alerts[0]._replace(state=state)
    assert found(judge(journal, stored)) == {"untold"}
    stored.alerts.pop(0)
    in_a_digest(journal, stored, 1)
    assert judge(journal, stored).ok


def test_a_digest_that_leaves_out_an_incident_is_found() -> None:
    journal, stored = history()
    journal.deliveries.clear()
    stored.alerts.pop(0)
    in_a_digest(journal, stored, 1)
    journal.deliveries[-1] = journal.deliveries[-1]._replace(opened=0)
    assert found(judge(journal, stored)) == {"untold"}


def test_an_alert_may_come_twice_and_may_not_change() -> None:
    journal, stored = history()
    journal.deliveries.append(journal.deliveries[0])
    verdict = judge(journal, stored)
    assert verdict.ok and verdict.counts["duplicates"] == 1
    journal.deliveries.append(journal.deliveries[0]._replace(body=b"other"))
    assert found(judge(journal, stored)) == {"changed"}


def test_two_alerts_for_one_thing_are_one_too_many() -> None:
    journal, stored = history()
    journal.deliveries.append(journal.deliveries[0]._replace(id="alert_3"))
    assert found(judge(journal, stored)) == {"changed"}


def test_an_outage_delays_and_must_have_a_fault() -> None:
    journal, stored = history()
    stored.outages.append(OutageRow(1_054.0, 1_057.0, "crash"))
    stored.incidents[0] = stored.incidents[0]._replace(opened=stored.incidents[0].opened + 3)
    assert found(judge(journal, stored)) == {"deaf"}
    journal.faults.append(Fault("a node is killed", 1_054.5, 1_056.5, 1_057.5))
    assert judge(journal, stored).ok


def test_an_outage_does_not_explain_everything() -> None:
    journal, stored = history()
    journal.faults.append(Fault("a node is killed", 1_054.5, 1_056.5, 1_057.5))
    stored.outages.append(OutageRow(1_053.0, 1_057.0, "crash"))
    stored.incidents.clear()
    # 8 s until the deadline, an outage of 4 s, two excused occurrences of 8 s each: 28 s, and the silence lasted 30.
    assert found(judge(journal, stored)) == {"missed"}


def test_a_time_in_the_log_that_is_not_between_sending_and_answer_is_found() -> None:
    journal, stored = history()
    stored.rows[60] = stored.rows[60]._replace(at=stored.rows[60].at + 1.5)
    assert found(judge(journal, stored)) == {"stamp"}


def test_the_database_clock_may_jump() -> None:
    journal, stored = history()
    journal.readings += [Reading(T0, T0), Reading(1_099.9, 1_099.9), Reading(1_100.1, 4_700.1), Reading(1_201, 4_801)]
    rows = [row if row.at < 1_099.9 else row._replace(at=row.at + 3_600) for row in stored.rows]
    stored = replace(stored, rows=rows, outages=[OutageRow(1_100.0, 4_701.0, "clock")])
    journal.faults.append(Fault("the clock of postgres jumps forward", 1_100.0, 1_101.5, 1_102.0))
    assert judge(journal, stored).ok
    stored.incidents.append(Incident(JOB.id, 2, "missed", 1_106.0, 4_702.505, 4_702.0, False))
    in_a_digest(journal, stored, 2)
    assert found(judge(journal, stored)) == {"false"}


@pytest.mark.parametrize("name", ["disk", "standby", "patroni", "clocks", "workers"])
def test_a_short_run_has_every_fault_that_only_its_world_has(name: str) -> None:
    drawn = draw(SHAPES[name], random.Random(1), 20)
    assert len(drawn) == 20
    own = {kind.name for kind in kinds_for(SHAPES[name])} - {kind.name for kind in kinds_for(SHAPES["two"])}
    assert own and own <= {kind.name for kind in drawn}


def test_the_pages_are_what_the_runs_say() -> None:
    runs = report.read(report.RUNS)
    assert report.page(runs) == report.PAGE.read_text(), "run: python -m tests.chaos.report"
    match = report.TOTALS.search(report.READERS.read_text())
    assert match is not None and match[2] == report.short_totals(runs)


def test_what_is_kept_of_a_run_names_no_file_of_its_machine() -> None:
    try:
        asyncio.run(asyncio.wait_for(asyncio.Event().wait(), 0.01))
    except TimeoutError:
        trouble = traceback.format_exc()
    assert __file__ in trouble
    run = report.entry([Outcome("two", 1, troubles=[trouble])])
    assert run["worlds"][0]["troubles"] == ["TimeoutError"]
    assert str(ROOT) not in report.RUNS.read_text()


def test_the_database_clock_may_be_set_back_and_be_noticed_a_little_later() -> None:
    journal, stored = history()
    journal.readings += [
        Reading(T0, T0 + 3),
        Reading(1_099.9, 1_102.9),
        Reading(1_100.1, 1_101.3),
        Reading(1_201, 1_202.2),
    ]
    # Until a second later log time is what it was; then it stands until the clock has caught up.
    shifted = [
        row._replace(at=row.at + 3 if row.at < 1_101 else max(1_104.0 + row.at / 1e6, row.at + 1.2))
        for row in stored.rows
    ]
    incident = stored.incidents[0]._replace(opened=stored.incidents[0].opened + 3, resolved=SILENT[1] + 3.005)
    assert judge(journal, replace(stored, rows=shifted, incidents=[incident])).ok
