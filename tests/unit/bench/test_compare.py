"""Two runs side by side, over made-up samples whose difference is known."""

import random

import pytest

from nestctl.bench import stats
from nestctl.bench.compare import Comparison, Verdict, compare_runs
from nestctl.bench.compare_report import render_comparison, render_comparison_table
from nestctl.bench.summary import Summary, summarize
from nestctl.bench.workloads import choose_workloads
from nestctl.errors import UsageError
from nestctl.model.samples import Settings
from tests.unit.bench.builders import call, record, results

NOISE = (0, 30, -20, 10, -30, 20, -10)
LEVELS = (record("L0"), record("l1", "L0", depth=1, is_emulated=True))


def run_of(
    l1_ns: int, *, kernel: str = "6.1", workload: str = "cpu", boot_id: str = "one", settings: Settings | None = None
) -> Summary:
    """One boot of every level, seven rounds."""
    environment = {"kernel": kernel, "boot_id": boot_id}
    levels = [level.model_copy(update={"environment": environment}) for level in LEVELS]
    costs = {"L0": 1000, "l1": l1_ns}
    calls = [
        call(name, number, workload, cost + noise * cost // 1000)
        for number, noise in enumerate(NOISE, start=1)
        for name, cost in costs.items()
    ]
    found = results(levels, calls, workloads=choose_workloads([workload]))
    return summarize(found.model_copy(update={"settings": settings or Settings()}))


def simulate(generator: random.Random, boots: int, rounds: int, *, slowdown: float = 1.0) -> Summary:
    """Draw a run whose guest varies by 5 % from boot to boot, and all by 1 % from round to round; with a control."""
    host = {"L0": {"boot_id": "host"}, "l1": {"boot_id": str(generator.random())}}
    levels = [level.model_copy(update={"environment": host[level.name]}) for level in LEVELS]
    calls = []
    for boot in range(1, boots + 1):
        l1_ns = 3e6 * slowdown * generator.lognormvariate(0, 0.05)
        for number in range((boot - 1) * rounds + 1, boot * rounds + 1):
            for name, cost_ns, is_control in (("L0", 1e6, False), ("l1", l1_ns, False), ("l1", l1_ns, True)):
                visit = call(name, number, "cpu", round(cost_ns * generator.lognormvariate(0, 0.01)))
                calls.append(visit.model_copy(update={"boot": boot, "is_control": is_control}))
    return summarize(results(levels, calls, workloads=choose_workloads(["cpu"])))


def changes_of(comparison: Comparison) -> dict[str, tuple[Verdict, bool]]:
    return {change.level: (change.verdict, change.is_regression) for change in comparison.changes}


def test_what_got_dearer_beyond_noise_and_threshold_is_a_regression_and_nothing_else() -> None:
    assert changes_of(compare_runs(run_of(3000), run_of(4500), threshold=0.05)) == {
        "L0": (Verdict.SAME, False),
        "l1": (Verdict.DEARER, True),
    }
    assert changes_of(compare_runs(run_of(3000), run_of(4500), threshold=0.6))["l1"] == (Verdict.DEARER, False)
    assert changes_of(compare_runs(run_of(4500), run_of(3000), threshold=0.05))["l1"] == (Verdict.CHEAPER, False)


def test_what_may_be_less_than_the_threshold_is_dearer_and_no_regression() -> None:
    """7 % dearer, and the interval reaches below 5 %."""
    (_, change) = compare_runs(run_of(3000), run_of(3210), threshold=0.05).changes
    assert change.ratio.value > 1.05
    assert change.ratio.interval is not None
    assert 1 < change.ratio.interval.low < 1.05
    assert (change.verdict, change.is_regression) == (Verdict.DEARER, False)
    assert changes_of(compare_runs(run_of(3000), run_of(3210), threshold=0.01))["l1"] == (Verdict.DEARER, True)


def test_a_change_inside_the_noise_is_none() -> None:
    changes = changes_of(compare_runs(run_of(3000), run_of(3015), threshold=0.0))
    assert changes["l1"] == (Verdict.SAME, False)


@pytest.mark.parametrize("boot_id", ["two", ""])
def test_one_boot_against_another_is_no_regression_unless_boots_are_ignored(boot_id: str) -> None:
    """An empty name is a run by a nestctl that did not write it down: then it may have been another boot."""
    before, after = run_of(3000), run_of(4500, boot_id=boot_id)
    comparison = compare_runs(before, after, threshold=0.05)
    assert changes_of(comparison) == {"L0": (Verdict.SAME, False), "l1": (Verdict.ONE_BOOT, False)}
    assert comparison.differences == ()
    assert render_comparison(comparison)["has_regression"] is False
    ignored = compare_runs(before, after, threshold=0.05, ignores_boots=True)
    assert changes_of(ignored)["l1"] == (Verdict.DEARER, True)


def test_a_machine_that_was_booted_between_the_runs_is_no_regression_either() -> None:
    before = run_of(3000)
    after = summarize(
        before.results.model_copy(
            update={
                "levels": tuple(it.model_copy(update={"environment": {"kernel": "6.1"}}) for it in LEVELS),
                "calls": tuple(
                    it if it.level == "l1" else call("L0", it.round, "cpu", 2000) for it in before.results.calls
                ),
            }
        )
    )
    assert changes_of(compare_runs(before, after, threshold=0.05))["L0"] == (Verdict.ONE_BOOT, False)


@pytest.mark.slow
@pytest.mark.parametrize(("boots", "rounds"), [(1, 5), (2, 5), (5, 1), (5, 3)])
def test_equal_runs_seldom_regress(boots: int, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3000 equal pairs of five boots one was called a regression; without the threshold it is 2.5 %."""
    monkeypatch.setattr(stats, "DRAWS", 1000)
    generator = random.Random(5)  # noqa: S311
    pairs = [[simulate(generator, boots, rounds) for _ in range(2)] for _ in range(100)]
    compared = [compare_runs(before, after, threshold=0.05) for before, after in pairs]
    assert sum(bool(it.regressions) for it in compared) <= (0 if boots == 1 else 1)


@pytest.mark.slow
def test_a_run_that_is_half_as_slow_again_regresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "DRAWS", 1000)
    generator = random.Random(6)  # noqa: S311
    pairs = [(simulate(generator, 5, 1), simulate(generator, 5, 1, slowdown=1.5)) for _ in range(20)]
    compared = [compare_runs(before, after, threshold=0.05) for before, after in pairs]
    assert all([change.level for change in it.regressions] == ["l1"] for it in compared)


def test_the_noise_of_one_level_does_not_hide_what_changed_on_another() -> None:
    """L0 became half as slow again; l1, which has the control, differs from itself by a factor of three."""

    def with_noisy_control(l0_ns: int) -> Summary:
        found = run_of(3000).results
        calls = [it if it.level == "l1" else call("L0", it.round, "cpu", l0_ns + it.round) for it in found.calls]
        controls = [call("l1", number, "cpu", 9000).model_copy(update={"is_control": True}) for number in range(1, 8)]
        return summarize(found.model_copy(update={"calls": (*calls, *controls)}))

    comparison = compare_runs(with_noisy_control(1000), with_noisy_control(1500), threshold=0.05)
    assert changes_of(comparison) == {"L0": (Verdict.DEARER, True), "l1": (Verdict.SAME, False)}


@pytest.mark.parametrize(
    ("other", "said"),
    [(Settings(fresh=1), "fresh: 'none' against '1'"), (Settings(has_control=True), "has_control: 'false' against")],
)
def test_runs_that_were_made_in_another_way_are_refused(other: Settings, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        compare_runs(run_of(3000), run_of(3000, settings=other), threshold=0.05)


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
    heads, _, below = text.partition("Workload")
    assert "EMULATED: emulated, not the cost of hardware." in heads
    assert "Not the same: L0: kernel" in heads
    assert "A regression is dearer beyond the noise" in below
    document = render_comparison(comparison)
    assert document["has_regression"] is True
    assert [change["verdict"] for change in document["changes"]] == ["no detectable difference", "dearer"]
    assert [change["emulated"] for change in document["changes"]] == [False, True]
