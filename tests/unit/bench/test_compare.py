"""Two runs side by side, over made-up samples whose difference is known."""

import pytest

from nestctl.bench.compare import Comparison, Verdict, compare_runs
from nestctl.bench.compare_report import render_comparison, render_comparison_table
from nestctl.bench.summary import Summary, summarize
from nestctl.bench.workloads import choose_workloads
from nestctl.errors import UsageError
from tests.unit.bench.builders import call, record, results

NOISE = (0, 30, -20, 10, -30, 20, -10)
LEVELS = (record("L0"), record("l1", "L0", depth=1, is_emulated=True))


def run_of(l1_ns: int, *, kernel: str = "6.1", workload: str = "cpu") -> Summary:
    levels = [level.model_copy(update={"environment": {"kernel": kernel}}) for level in LEVELS]
    costs = {"L0": 1000, "l1": l1_ns}
    calls = [
        call(name, number, workload, cost + noise * cost // 1000)
        for number, noise in enumerate(NOISE, start=1)
        for name, cost in costs.items()
    ]
    return summarize(results(levels, calls, workloads=choose_workloads([workload])))


def changes_of(comparison: Comparison) -> dict[str, tuple[Verdict, bool]]:
    return {change.level: (change.verdict, change.is_regression) for change in comparison.changes}


def test_what_got_dearer_beyond_noise_and_threshold_is_a_regression_and_nothing_else() -> None:
    assert changes_of(compare_runs(run_of(3000), run_of(4500), threshold=0.05)) == {
        "L0": (Verdict.SAME, False),
        "l1": (Verdict.DEARER, True),
    }
    assert changes_of(compare_runs(run_of(3000), run_of(4500), threshold=0.6))["l1"] == (Verdict.DEARER, False)
    assert changes_of(compare_runs(run_of(4500), run_of(3000), threshold=0.05))["l1"] == (Verdict.CHEAPER, False)


def test_a_change_inside_the_noise_is_none() -> None:
    changes = changes_of(compare_runs(run_of(3000), run_of(3015), threshold=0.0))
    assert changes["l1"] == (Verdict.SAME, False)


def test_less_of_what_is_better_is_dearer() -> None:
    slower = compare_runs(
        run_of(1000, workload="memory_bandwidth"), run_of(2000, workload="memory_bandwidth"), threshold=0.05
    )
    (change,) = [change for change in slower.changes if change.level == "l1"]
    assert change.ratio.value == pytest.approx(2.0)
    assert change.is_regression


def test_other_machines_are_refused_with_what_differs_unless_it_is_forced() -> None:
    with pytest.raises(UsageError, match=r"l1: kernel: '6\.1' against '6\.5'") as raised:
        compare_runs(run_of(3000), run_of(3000, kernel="6.5"), threshold=0.05)
    assert "--force" in raised.value.hint
    forced = compare_runs(run_of(3000), run_of(3000, kernel="6.5"), threshold=0.05, is_forced=True)
    assert [str(difference) for difference in forced.differences] == [
        "L0: kernel: '6.1' against '6.5'",
        "l1: kernel: '6.1' against '6.5'",
    ]


def test_a_level_that_only_one_run_has_is_a_difference_and_is_not_compared() -> None:
    alone = summarize(
        results(LEVELS[:1], [call("L0", n, "cpu", 1000) for n in range(1, 6)], workloads=choose_workloads(["cpu"]))
    )
    comparison = compare_runs(run_of(3000), alone, threshold=0.05, is_forced=True)
    assert "l1: level: 'measured' against '(not there)'" in [str(difference) for difference in comparison.differences]
    assert comparison.missing == ("cpu on l1: only before",)


def test_few_values_say_nothing() -> None:
    few = summarize(results(LEVELS, [call("L0", 1, "cpu", 1000)], workloads=choose_workloads(["cpu"])))
    more = summarize(results(LEVELS, [call("L0", 1, "cpu", 9000)], workloads=choose_workloads(["cpu"])))
    assert changes_of(compare_runs(few, more, threshold=0.05)) == {"L0": (Verdict.UNKNOWN, False)}


def test_table_and_document_say_the_same_and_label_emulated_levels() -> None:
    from rich.console import Console

    comparison = compare_runs(run_of(3000), run_of(4500, kernel="6.5"), threshold=0.05, is_forced=True)
    console = Console(width=160, highlight=False)
    with console.capture() as captured:
        console.print(render_comparison_table(comparison))
    text = captured.get()
    assert "l1 EMULATED" in text
    assert "REGRESSION" in text
    assert "1.50× [" in text
    assert "1 of 2" in text
    assert "Not the same: L0: kernel" in text
    document = render_comparison(comparison)
    assert document["has_regression"] is True
    assert [change["verdict"] for change in document["changes"]] == ["no detectable difference", "dearer"]
    assert [change["emulated"] for change in document["changes"]] == [False, True]
