"""A run that is to fit into a time: what is chosen for it, and from when on it counts."""

import itertools
import time
from collections.abc import Sequence

import pytest

from nestctl.bench.budget import estimate_round_s, fit_to_budget
from nestctl.bench.fresh import run_fresh
from nestctl.bench.run import Progress, run_bench
from nestctl.bench.use_case import choose_settings, list_left_out
from nestctl.bench.workloads import DEFAULT_WORKLOADS, QUICK_WORKLOADS
from nestctl.deadline import Deadline
from nestctl.model.samples import Settings
from tests.unit.bench.builders import FakeShell, Machine
from tests.unit.bench.test_fresh import Lab


def lab(*, is_emulated: bool = True, depth: int = 2) -> Sequence[Machine]:
    names = ("L0", "l1", "l2", "l3")[: depth + 1]
    return [
        Machine(
            name=name,
            shell=FakeShell(name, itertools.repeat(5)),
            depth=depth,
            above=names[depth - 1] if depth else None,
            is_emulated=is_emulated and depth > 0,
        )
        for depth, name in enumerate(names)
    ]


def test_a_round_grows_with_samples_levels_and_workloads() -> None:
    """By hand: 0.1 s for each of 3 + 1 samples, 0.1 s besides or 0.2 s where emulated, and l2 twice."""
    one = Settings(samples=3, target_ms=100, workloads=("cpu",), has_control=True)
    assert estimate_round_s(lab(), one) == pytest.approx(0.5 + 3 * 0.6)
    assert estimate_round_s(lab(is_emulated=False), one) == pytest.approx(4 * 0.5)
    assert estimate_round_s(lab()[:1], one.model_copy(update={"has_control": False})) == pytest.approx(0.5)
    two = one.model_copy(update={"workloads": ("cpu", "sysbench_cpu", "boot_to_ssh")})
    assert estimate_round_s(lab(), two) == pytest.approx(0.5 + 3 * 0.6 + 4 * 2)


def test_a_third_emulated_level_takes_longer_than_the_others_together() -> None:
    """By hand: l3, twice, prepares for 1 s instead of 0.2 s, and its programs start in 5 s instead of 1 s."""
    one = Settings(samples=3, target_ms=100, workloads=("cpu", "sysbench_cpu"), has_control=True)
    assert estimate_round_s(lab(depth=3), one) == pytest.approx(0.5 + 2 * 0.6 + 3 * 2 + 2 * (1.4 + 6))
    assert estimate_round_s(lab(depth=3, is_emulated=False), one) == pytest.approx(5 * 2.5)


def test_the_estimates_are_not_far_from_what_runs_took() -> None:
    """Rounds of an emulated lab of two levels took 62 s, and 9.5 s with --quick."""
    assert 62 <= estimate_round_s(lab(), choose_settings()) <= 1.5 * 62
    assert 9.5 <= estimate_round_s(lab(), choose_settings(is_quick=True)) <= 1.5 * 9.5


@pytest.mark.parametrize("is_full", [False, True])
def test_where_no_round_fits_the_quick_workloads_are_measured_and_the_others_named(is_full: bool) -> None:
    settings = choose_settings(budget_s=120, is_full=is_full)
    fitted, (note,) = fit_to_budget(lab(), settings, spent_s=80)
    assert fitted.workloads == QUICK_WORKLOADS
    assert "Of the budget of 120 s there were 40 s left" in note
    assert "iperf3_up" in list_left_out(fitted)[0]
    assert fitted.model_copy(update={"workloads": settings.workloads}) == settings


def test_what_fits_what_was_named_and_what_has_no_budget_stays() -> None:
    roomy, named = choose_settings(budget_s=600), choose_settings(budget_s=1, workloads=("cpu", "vm_create"))
    for settings in (roomy, named, choose_settings(), choose_settings(budget_s=1, is_quick=True)):
        assert fit_to_budget(lab(), settings, spent_s=30) == (settings, ())
    assert fit_to_budget(lab(), roomy, spent_s=580)[0].workloads == QUICK_WORKLOADS
    assert roomy.workloads == DEFAULT_WORKLOADS


def test_the_budget_counts_from_the_beginning_of_the_run() -> None:
    """A minute is gone when the levels have been reached: there is no second round."""
    settings = choose_settings(budget_s=60, workloads=("cpu",), rounds=4)
    deadline = Deadline.after(60, "The test")
    late = run_bench(lab(), settings=settings, deadline=deadline, progress=Progress(begun_s=time.monotonic() - 60))
    early = run_bench(lab(), settings=settings, deadline=deadline, progress=Progress())
    assert [max(call.round for call in it.calls) for it in (late, early)] == [1, 4]


def fresh_rounds(budget_s: float, *, boot_s: float, spent_s: float = 0) -> int:
    guests = Lab(boot_s=boot_s)
    settings = choose_settings(budget_s=budget_s, workloads=("cpu",), rounds=4, fresh=1)
    progress = Progress(begun_s=time.monotonic() - spent_s)
    results = run_fresh(guests.open, guests.boot, settings=settings, title="demo", step=guests.step, progress=progress)
    return max(call.round for call in results.calls)


def test_a_boot_that_has_no_room_is_not_begun() -> None:
    """Nothing was booted yet when that is decided: what 'up' recorded is expected."""
    assert fresh_rounds(60, boot_s=1000) == 1
    assert fresh_rounds(60, boot_s=1) == 4
    assert fresh_rounds(60, boot_s=1, spent_s=60) == 1


def test_a_fresh_run_is_fitted_once_and_says_it() -> None:
    guests = Lab()
    settings = choose_settings(budget_s=1.5, rounds=2, fresh=1)
    results = run_fresh(guests.open, guests.boot, settings=settings, title="x", step=guests.step, progress=Progress())
    assert results.settings.workloads == QUICK_WORKLOADS
    assert [note for note in results.left_out if "only those of --quick" in note]
