"""The loop over levels: over fakes with known numbers, and once over this machine twice."""

import itertools

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.agent import measure
from nestctl.bench.boot import parse_boot
from nestctl.bench.costs import harness_share
from nestctl.bench.notes import describe_notes
from nestctl.bench.run import run_bench
from nestctl.bench.summary import summarize, widest
from nestctl.bench.use_case import choose_settings, list_left_out
from nestctl.bench.workloads import AGENT_WORKLOADS, WORKLOADS, choose_workloads
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, UsageError
from nestctl.model.samples import Ending, Settings, parse_results, render_results
from tests.unit.bench.builders import FakeShell, Machine, level

CPU = Settings(rounds=7, workloads=("cpu",))


def soon(timeout_s: float = 60) -> Deadline:
    return Deadline.after(timeout_s, "The test")


def test_every_workload_of_the_agent_has_its_row_and_the_other_way_round() -> None:
    assert {workload.name for workload in AGENT_WORKLOADS} == set(measure.WORKLOADS)


def test_what_is_left_out_is_said_unless_the_workloads_were_named() -> None:
    names = {workload.name for workload in WORKLOADS}
    quick, default, full = choose_settings(is_quick=True), choose_settings(), choose_settings(is_full=True)
    assert set(quick.workloads) < set(default.workloads) < names
    assert {workload.name for workload in choose_workloads(full.workloads)} == names
    by_default, by_full = list_left_out(quick)
    assert by_default.startswith("Left out, and measured by default: ")
    assert "dirty_log" in by_default
    assert "cpuid_exit" not in by_default
    assert by_full.startswith("Left out, and measured with --full: ")
    assert "fio_qd32" in by_full
    assert list_left_out(default) == (by_full,)
    assert list_left_out(full) == list_left_out(choose_settings(is_quick=True, workloads=("cpu",))) == ()


def test_every_round_visits_every_level_once_in_an_order_that_the_seed_repeats() -> None:
    def visited(seed: int) -> list[tuple[int, str]]:
        levels = [level(FakeShell(name, itertools.repeat(5))) for name in ("a", "b", "c")]
        settings = Settings(rounds=6, workloads=("cpu",), seed=seed)
        return [(call.round, call.level) for call in run_bench(levels, settings=settings, deadline=soon()).calls]

    orders = visited(1)
    assert sorted(orders) == sorted(itertools.product(range(1, 7), "abc"))
    assert orders == visited(1)
    assert orders != visited(2)
    assert len({tuple(name for number, name in orders if number == n) for n in range(1, 7)}) > 1


def test_an_injected_slowdown_is_found() -> None:
    noise = [96, 104, 100, 98, 102, 101, 99]
    fast = level(FakeShell("L0", noise))
    slow = level(FakeShell("guest", [cost * 3 // 2 for cost in reversed(noise)]), above="L0", depth=1)
    (row,) = summarize(run_bench([fast, slow], settings=CPU, deadline=soon())).rows
    (ratio,) = row.figures[1].ratios
    assert ratio.to == "L0"
    assert ratio.interval is not None
    assert ratio.interval.contains(1.5)
    assert ratio.is_detectable


def test_two_levels_that_are_the_same_do_not_differ_detectably() -> None:
    noise = [96, 104, 100, 98, 102, 101, 99]
    first, second = level(FakeShell("a", noise)), level(FakeShell("b", noise[::-1]), above="a")
    (row,) = summarize(run_bench([first, second], settings=CPU, deadline=soon())).rows
    assert row.figures[1].ratios[0].is_detectable is False


def test_a_level_that_fails_is_in_the_results_and_the_others_go_on() -> None:
    def refuse() -> None:
        raise UsageError("The connection to 'broken' was lost.")

    levels = [level(FakeShell("L0", itertools.repeat(5))), level(FakeShell("broken", [], before=refuse), above="L0")]
    results = run_bench(levels, settings=CPU, deadline=soon())
    assert results.ending is Ending.COMPLETE
    failures = [call for call in results.calls if call.failure]
    assert {call.level for call in failures} == {"broken"}
    assert len(failures) == CPU.rounds
    figure = summarize(results).rows[0].figures[1]
    assert figure.not_measured == "The connection to 'broken' was lost."
    assert figure.ratios == ()


def test_an_interruption_keeps_what_was_measured_and_marks_it() -> None:
    calls = itertools.count(1)

    def interrupt_the_fourth() -> None:
        if next(calls) == 4:
            raise KeyboardInterrupt

    shell = FakeShell("L0", itertools.repeat(5), before=interrupt_the_fourth)
    results = run_bench([level(shell)], settings=CPU, deadline=soon())
    assert results.ending is Ending.INTERRUPTED
    assert len(results.calls) == 3
    assert parse_results(render_results(results), source="x") == results


def test_the_deadline_ends_the_run_with_what_there_is() -> None:
    results = run_bench([level(FakeShell("L0", itertools.repeat(5)))], settings=CPU, deadline=soon(0))
    assert results.ending is Ending.DEADLINE
    assert results.calls == ()
    assert "ended before" in summarize(results).rows[0].figures[0].not_measured


def test_the_budget_leaves_five_rounds() -> None:
    settings = Settings(rounds=50, fewest_rounds=5, workloads=("cpu",), budget_s=1e-9)
    results = run_bench([level(FakeShell("L0", itertools.repeat(5)))], settings=settings, deadline=soon())
    assert len(results.calls) == 5
    assert results.ending is Ending.COMPLETE


def test_a_budget_that_was_named_is_kept_however_few_rounds_it_has_room_for() -> None:
    settings = choose_settings(budget_s=1e-9, workloads=("cpu",))
    results = run_bench([level(FakeShell("L0", itertools.repeat(5)))], settings=settings, deadline=soon())
    assert {call.round for call in results.calls} == {1}


def test_the_control_is_a_second_visit_of_the_deepest_level_in_every_round() -> None:
    levels = [
        level(FakeShell("L0", itertools.repeat(5))),
        level(FakeShell("l1", itertools.repeat(9)), above="L0", depth=1),
    ]
    settings = Settings(rounds=8, has_control=True, workloads=("cpu",), seed=3)
    results = run_bench(levels, settings=settings, deadline=soon())
    visits = [(call.level, call.is_control) for call in results.calls]
    assert visits.count(("l1", True)) == visits.count(("l1", False)) == visits.count(("L0", False)) == 8
    assert len(visits) == 24
    orders = {tuple(visits[start : start + 3]) for start in range(0, 24, 3)}
    assert len(orders) > 1
    figure = summarize(results).rows[0].figures[1]
    assert len(figure.values) == 8
    assert len(figure.points) == 8


def test_rounds_are_repeated_until_every_ratio_is_known_well_enough() -> None:
    """The first values scatter by half, the later ones not at all: more rounds narrow the interval to the precision."""
    noise = [100, 150, 60, 140, 70, *[100] * 200]
    settings = choose_settings(until=0.03, workloads=("cpu",), seed=1)
    levels = [level(FakeShell("L0", noise)), level(FakeShell("l1", [200] * 300), above="L0", depth=1)]
    results = run_bench(levels, settings=settings, deadline=soon())
    rounds = max(call.round for call in results.calls)
    assert 5 < rounds < 100
    reached = widest(summarize(results))
    assert reached is not None
    assert reached.half_width <= 0.03
    before = [call for call in results.calls if call.round < rounds]
    earlier = widest(summarize(results.model_copy(update={"calls": tuple(before)})))
    assert earlier is None or earlier.half_width > 0.03
    assert any(
        "which was reached" in note and "a little too narrow" in note
        for note in describe_notes(summarize(results)).reading
    )


def test_a_precision_that_is_out_of_reach_ends_with_the_budget_and_says_so() -> None:
    noise = itertools.cycle([100, 160, 60])
    levels = [level(FakeShell("L0", noise)), level(FakeShell("l1", [200] * 300), above="L0", depth=1)]
    settings = choose_settings(until=0.001, workloads=("cpu",), rounds=9)
    results = run_bench(levels, settings=settings, deadline=soon())
    assert max(call.round for call in results.calls) == 9
    assert any("which was not reached" in note for note in describe_notes(summarize(results)).reading)


def test_what_a_level_cannot_measure_has_its_reason_and_no_number() -> None:
    shell = FakeShell("L0", itertools.repeat(5), not_measured="/dev/kvm is missing")
    figure = summarize(run_bench([level(shell)], settings=CPU, deadline=soon())).rows[0].figures[0]
    assert (figure.spread, figure.not_measured) == (None, "/dev/kvm is missing")


def test_boot_times_come_from_the_lab_and_from_systemd() -> None:
    guest = FakeShell("l1", itertools.repeat(5))
    levels = [
        level(FakeShell("L0", itertools.repeat(5))),
        Machine(name="l1", depth=1, above="L0", shell=guest, boot_s=(20.0, 22.0, 30.0)),
    ]
    settings = Settings(workloads=("boot_to_ssh", "boot_in_guest"))
    results = run_bench(levels, settings=settings, deadline=soon())
    to_ssh, in_guest = summarize(results).rows
    assert results.calls == ()
    assert to_ssh.figures[0].not_measured == in_guest.figures[0].not_measured == "nestctl did not start this machine"
    assert to_ssh.figures[1].spread is not None
    assert to_ssh.figures[1].spread.median == pytest.approx(22.0)
    assert in_guest.figures[1].values == pytest.approx((12.0,))


@pytest.mark.parametrize("text", ["0", "", "n/a"])
def test_a_system_that_still_starts_has_no_boot_time(text: str) -> None:
    assert parse_boot(text).not_measured


def test_levels_and_workloads_have_to_make_sense() -> None:
    same = [level(FakeShell("a", [])), level(FakeShell("a", []))]
    orphan = [level(FakeShell("a", []), above="nowhere")]
    for levels in ([], same, orphan):
        with pytest.raises(UsageError):
            run_bench(levels, settings=CPU, deadline=soon())
    with pytest.raises(UsageError, match="no workload 'cpux'"):
        choose_workloads(["cpux"])
    assert choose_workloads([]) == WORKLOADS
    assert [workload.name for workload in choose_workloads(["cpu", "cpu"])] == ["cpu"]


def test_an_agent_stays_for_the_run_and_one_that_failed_is_followed_by_another() -> None:
    calls = itertools.count(1)

    def fail_the_second() -> None:
        if next(calls) == 2:
            raise FailedError("The agent broke.")

    shell = FakeShell("L0", itertools.repeat(5), before=fail_the_second)
    results = run_bench([level(shell)], settings=Settings(rounds=4, workloads=("cpu",)), deadline=soon())
    assert [call.failure for call in results.calls] == ["", "The agent broke.", "", ""]
    assert shell.conversations == 2
    assert results.levels[0].environment == {"kernel": "6.1.0-fake"}
    assert results.levels[0].setup_ns is not None


@pytest.mark.slow
def test_this_machine_measured_twice_for_real() -> None:
    levels = [
        Machine(name="L0", shell=LocalShell()),
        Machine(name="again", above="L0", shell=LocalShell()),
    ]
    settings = Settings(rounds=3, samples=2, target_ms=2, workloads=("cpu", "memory_latency"))
    results = run_bench(levels, settings=settings, deadline=soon())
    assert not [call.failure for call in results.calls if call.failure]
    summary = summarize(results)
    assert not any(clock.is_wrong for clock in summary.clocks)
    for row in summary.rows:
        again = row.figures[1]
        assert len(again.points) == 6
        # The same machine: whatever the noise of a busy one, no workload costs ten times as much.
        assert 0.1 < again.ratios[0].value < 10
    assert results.levels[0].environment["kernel"]
    assert 0 < (harness_share(results) or 0) < 1
