"""Where the time of a run went, over made-up calls whose parts are known."""

import pytest

from nestctl.bench.costs import harness_share, list_parts, measured_share
from nestctl.bench.notes import describe_notes
from nestctl.bench.summary import summarize
from nestctl.model.samples import Call, Results, Settings, Spent
from tests.unit.bench.builders import SECOND_NS, call, record, results


def test_what_measuring_costs_is_the_time_of_visits_outside_their_workloads() -> None:
    """A second inside, and 20 ms more around it; a visit that failed, and one of a program, say nothing of it."""
    visit = call("L0", 1, "cpu", 1000)
    visit = visit.model_copy(update={"host_end_ns": visit.host_end_ns + SECOND_NS // 50})
    program = visit.model_copy(update={"level_begin_ns": None, "level_end_ns": None})
    assert harness_share(results([record("L0")], [visit, visit, program])) == pytest.approx(0.02)
    assert harness_share(results([record("L0")], [program])) is None


def run_of_twenty_seconds(budget_s: float | None = None) -> Results:
    """Four visits of a second with 0.4 s of samples each, one of which had half a second around it; one that failed."""
    visits = [call("L0", number, "cpu", 4 * SECOND_NS // 10) for number in range(1, 5)]
    visits[0] = visits[0].model_copy(update={"host_end_ns": visits[0].host_end_ns + SECOND_NS // 2})
    failed = Call(level="L0", round=5, host_begin_ns=0, host_end_ns=2 * SECOND_NS, failure="it hangs")
    level = record("L0").model_copy(update={"setup_ns": 3 * SECOND_NS})
    spent = Spent(whole_ns=20 * SECOND_NS, opening_ns=5 * SECOND_NS, boots_ns=4 * SECOND_NS)
    changes = {"spent": spent, "settings": Settings(budget_s=budget_s, fewest_rounds=1)}
    return results([level], [*visits, failed]).model_copy(update=changes)


def test_the_parts_of_a_run_are_all_of_it() -> None:
    parts = {part.key: part.seconds for part in list_parts(run_of_twenty_seconds())}
    assert parts == {
        "samples_s": pytest.approx(1.6),
        "preparing_s": pytest.approx(2.4),
        "asking_s": pytest.approx(0.5),
        "failed_s": 2.0,
        "agents_s": 3.0,
        "opening_s": 5.0,
        "boots_s": 4.0,
        "rest_s": pytest.approx(1.5),
    }


def test_the_parts_are_said_with_their_share_and_without_those_of_no_time() -> None:
    notes = " ".join(describe_notes(summarize(run_of_twenty_seconds())).cost)
    assert "Of the 20.0 s of the whole run: samples 8 %, calibrating, warming up and preparing 12 %" in notes
    assert "reaching, checking and pinning the levels 25 %, booting the guests anew 20 %, the rest 8 %." in notes
    old = run_of_twenty_seconds().model_copy(update={"spent": None})
    assert list_parts(old) == ()
    assert measured_share(old) == pytest.approx(1.6 / 4.5)
    assert "36 % of the time of all visits was samples" in " ".join(describe_notes(summarize(old)).cost)


def test_a_clock_that_is_wrong_makes_no_part_negative() -> None:
    visit = call("L0", 1, "cpu", 90 * SECOND_NS)
    visit = visit.model_copy(update={"level_end_ns": visit.host_end_ns + 99 * SECOND_NS})
    spent = Spent(whole_ns=SECOND_NS, opening_ns=0)
    run = results([record("L0")], [visit]).model_copy(update={"spent": spent})
    assert all(part.seconds >= 0 for part in list_parts(run))


@pytest.mark.parametrize(("budget_s", "is_said"), [(19.0, True), (21.0, False), (None, False)])
def test_a_budget_that_was_not_kept_is_said(budget_s: float | None, is_said: bool) -> None:
    notes = " ".join(describe_notes(summarize(run_of_twenty_seconds(budget_s))).cost)
    assert ("The run took longer than its budget of 19 s: 1 round is made in any case" in notes) is is_said
