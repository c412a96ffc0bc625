"""What the user sees: the table on the terminal and the HTML page."""

import math
import re
import sys
from collections.abc import Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from nestctl.bench import html, plots
from nestctl.bench.export import Format, export_results
from nestctl.bench.notes import describe_notes, describe_run
from nestctl.bench.published import PUBLISHED
from nestctl.bench.report import (
    EMULATED,
    EMULATED_NOTE,
    format_effect,
    format_ratio,
    format_share,
    format_spread,
    format_value,
)
from nestctl.bench.stats import Interval, Spread
from nestctl.bench.summary import Ratio, Summary, summarize
from nestctl.bench.table import render_table
from nestctl.bench.use_case import choose_exit_code, choose_settings
from nestctl.bench.workloads import AGENT_WORKLOADS, WORKLOADS, choose_workloads
from nestctl.errors import ExitCode, PrerequisiteError
from nestctl.model.samples import Call, Ending, Outcome, Sample, Workload, parse_results
from tests.unit.bench.builders import call, record, results

LEVELS = (record("L0"), record("l1", "L0", depth=1, is_emulated=True), record("l2", "l1", depth=2, is_emulated=True))


def two_levels_deep(rounds: int = 5, ending: Ending = Ending.COMPLETE) -> Summary:
    calls = [
        call(level.name, number, workload.name, 1000 * 3**level.depth + number)
        for number in range(1, rounds + 1)
        for level in LEVELS
        for workload in AGENT_WORKLOADS
    ]
    return summarize(results(LEVELS, calls, ending=ending))


def one_workload() -> Summary:
    """A plot takes a good part of a second: this has few."""
    return summarize(results(LEVELS, [call(level.name, 1, "cpu", 5000) for level in LEVELS]))


@cache
def page_of_two_levels_deep() -> str:
    """Its plots take most of a second each, and no test changes it."""
    return html.render_report(two_levels_deep())


def on_terminal(summary: Summary) -> str:
    console = Console(width=160, highlight=False)
    with console.capture() as captured:
        console.print(render_table(summary))
    return captured.get()


def test_the_table_labels_emulated_levels_and_no_other() -> None:
    text = on_terminal(two_levels_deep())
    (heads,) = [line for line in text.splitlines() if EMULATED in line and EMULATED_NOTE not in line]
    assert heads.count(EMULATED) == 2
    assert f"EMULATED (l1, l2): {EMULATED_NOTE}" in text
    real = summarize(results([record("L0"), record("l1", "L0", depth=1)], [call("l1", 1, "cpu", 5000)]))
    assert EMULATED not in on_terminal(real)


@pytest.mark.parametrize("kind", ["terminal", Format.HTML, Format.MD])
def test_what_nobody_may_miss_stands_before_the_figures_and_what_explains_them_below(kind: str) -> None:
    summary = with_control(27000)
    partial = summary.results.model_copy(
        update={"ending": Ending.INTERRUPTED, "left_out": ("Nothing was measured on the moon.",)}
    )
    text = on_terminal(summarize(partial)) if kind == "terminal" else export_results(partial, Format(kind))
    order = [
        "What nesting costs",
        "Measured 2025-01-02",
        "Partial: the run was interrupted",
        "EMULATED (l1, l2)",
        "l2 differs from itself",
        "one turn of a loop" if kind == Format.HTML else "CPU loop  " if kind == "terminal" else "| CPU loop",
        "median absolute deviation",
        "A/A: l2 was visited twice",
        "own cost within the visits",
        "on the moon",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_the_machine_is_named_as_far_as_it_is_known() -> None:
    top = record("L0").model_copy(update={"environment": {"cpu_model": "Some CPU", "cpus": "2", "kernel": "6.1"}})
    known, unknown = (describe_run(summarize(results([level], []))) for level in (top, record("L0")))
    assert known == "Measured 2025-01-02T03:04:05+00:00 on Some CPU, 2 CPUs, kernel 6.1, by nestctl 0.0.0."
    assert unknown == "Measured 2025-01-02T03:04:05+00:00 by nestctl 0.0.0."


def test_the_table_has_figures_with_ratios_to_the_level_above_and_to_the_top() -> None:
    text = on_terminal(two_levels_deep())
    assert "CPU loop" in text
    assert re.search(r"9\.00 ns ± 0\.00\d", text)
    assert re.search(r"3\.00× l1 \[[\d.]+–[\d.]+\]", text)
    assert re.search(r"8\.9\d× L0 \[[\d.]+–[\d.]+\]", text)
    assert re.search(r"Not measured: .*\bBoot to SSH on\s+L0\b", text, re.DOTALL)


@pytest.mark.slow
def test_the_page_labels_every_emulated_figure_and_needs_nothing_else() -> None:
    page = page_of_two_levels_deep()
    cells = re.findall(r"<td.*?</td>", page, re.DOTALL)
    assert len(cells) == len(LEVELS) * len(WORKLOADS)
    assert [EMULATED in cell for cell in cells] == [False, True, True] * len(WORKLOADS)
    assert EMULATED_NOTE in page
    assert "l2 (emulated)" in page
    assert page.count("<svg") == math.ceil(len(AGENT_WORKLOADS) / plots.MOST_ROWS) + len(AGENT_WORKLOADS)
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "@import" not in page


@pytest.mark.slow
def test_the_page_is_well_formed_and_what_a_plot_refers_to_is_in_it_alone() -> None:
    found: list[str] = []
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if name == "id")
            if tag != "meta":
                open_tags.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if name == "id")

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    page = page_of_two_levels_deep()
    Checker().feed(page)
    assert open_tags == []
    references = set(re.findall(r'(?:url\(|href=")#([^)"]+)', page))
    assert references
    assert {found.count(name) for name in references} == {1}


def test_what_a_guest_says_is_shown_as_text() -> None:
    evil = "<script>alert(1)</script>"
    failed = Call(level="l1", round=1, host_begin_ns=0, host_end_ns=1, failure=evil)
    page = html.render_report(summarize(results(LEVELS, [failed])))
    assert evil not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("ending", [Ending.INTERRUPTED, Ending.DEADLINE, Ending.FAILED])
def test_a_partial_run_says_so_first(ending: Ending) -> None:
    assert describe_notes(two_levels_deep(ending=ending)).warnings[0].startswith("Partial:")
    assert "Partial:" in on_terminal(two_levels_deep(ending=ending))


def test_few_rounds_have_no_interval_and_say_so() -> None:
    text = on_terminal(two_levels_deep(rounds=2))
    assert "too few for an interval that says how sure a ratio is." in text
    assert "[" not in text


def test_intervals_are_explained_only_where_there_are_some() -> None:
    """Times to boot have values of earlier boots, and so intervals in a run of one round."""
    booted = [
        level.model_copy(update={"outcomes": (Outcome(workload="boot_to_ssh", samples=boots(level.depth)),)})
        for level in LEVELS[1:]
    ]
    visits = [call("l2", 1, "cpu", 5000), call("l2", 1, "cpu", 5000).model_copy(update={"is_control": True})]
    once = results([LEVELS[0], *booted], visits, workloads=choose_workloads(["cpu", "boot_to_ssh"]))
    reading = " ".join(describe_notes(summarize(once)).reading)
    assert "says how sure a ratio is, but for times to boot." in reading
    assert "compared with itself." in reading
    assert "finds 5 %" not in reading
    assert "finds 5 %" in " ".join(describe_notes(with_control(9080)).reading)


def boots(depth: int) -> tuple[Sample, ...]:
    return tuple(Sample(operations=1, elapsed_ns=10**9 * depth + extra) for extra in (0, 10**7))


def test_a_wrong_clock_and_a_failed_visit_are_noted() -> None:
    calls = [call("l1", number, "cpu", 5000) for number in (1, 2)]
    slow = calls[1].model_copy(update={"level_begin_ns": 15 * 10**9, "level_end_ns": 16 * 10**9})
    failed = Call(level="l2", round=1, host_begin_ns=0, host_end_ns=1, failure="it hangs")
    notes = "\n".join(describe_notes(summarize(results(LEVELS, [calls[0], slow, failed]))).warnings)
    assert "clock of l1 went -50.00 %" in notes
    assert "l2: 1 of its visits failed, the first with: it hangs" in notes


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.00123456, "0.00123"), (4.5678, "4.57"), (123.4, "123"), (98765, "98,800")]
)
def test_values_have_three_digits(value: float, text: str) -> None:
    assert format_value(value) == text


def test_a_deviation_keeps_a_digit_and_a_single_value_has_none() -> None:
    one = Spread(median=9.667, mad=0.0, minimum=9.667, maximum=9.667, count=1)
    several = Spread(median=1.782, mad=0.00345, minimum=1, maximum=2, count=5)
    assert format_spread(one, "s") == "9.67 s"
    assert format_spread(several, "ns") == "1.78 ns ± 0.003"


def test_a_ratio_within_the_noise_is_marked() -> None:
    def text(low: float, high: float) -> str:
        return format_ratio(Ratio(to="l1", value=1.02, interval=Interval(low=low, high=high)))

    assert text(0.98, 1.05) == "1.02× l1 [0.980–1.05] ≈"
    assert text(1.01, 1.05) == "1.02× l1 [1.01–1.05]"


@pytest.mark.parametrize(("low", "high", "shown"), [(0.0043, 239, "very wide"), (0.01, 10, "0.0100–10.0")])
def test_ends_that_say_nothing_are_not_shown(low: float, high: float, shown: str) -> None:
    ratio = Ratio(to="l1", value=1.02, interval=Interval(low=low, high=high))
    assert format_ratio(ratio) == f"1.02× l1 [{shown}] ≈"
    assert [format_effect(it) for it in (0.26, 2.5, 8.9, 4e9)] == ["26 %", "250 %", "890 %", "over 10×"]
    assert [format_share(it) for it in (0.0049, 0.01, 0.634)] == ["under 1 %", "1 %", "63 %"]


def of_two_boots(first: int, second: int) -> Summary:
    """Every level is as dear as the one above in both boots, and what that is differs from boot to boot."""
    calls = [
        call(level.name, number, "cpu", cost * 3**level.depth).model_copy(update={"boot": number})
        for number, cost in ((1, first), (2, second))
        for level in LEVELS
    ]
    return summarize(results(LEVELS, calls, workloads=choose_workloads(["cpu"])))


def test_an_interval_that_says_nothing_does_not_hide_the_ratios_in_a_plot() -> None:
    assert "very wide" in on_terminal(of_two_boots(1000, 60_000))
    for second in (1010, 60_000):
        (plot,) = plots.plot_ratios(of_two_boots(1000, second))
        marks = [float(text) for text in re.findall(r">([\d.e+-]+)×<", plot)]
        assert 1 in marks
        assert max(marks) <= 3 * 10 * 1.3


def test_files_are_written_whole_and_can_be_read_again(tmp_path: Path) -> None:
    summary = one_workload()
    written = html.write_results(summary.results, tmp_path / "results")
    assert parse_results(written.results.read_bytes(), source="x") == summary.results
    assert written.report is not None
    assert written.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(path.suffix for path in written.results.parent.iterdir()) == [".html", ".json"]


def test_without_matplotlib_the_results_are_written_and_the_report_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "can_render_report", lambda: False)
    written = html.write_results(two_levels_deep().results, tmp_path)
    assert written.results.exists()
    assert written.report is None
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PrerequisiteError) as raised:
        plots.plot_ratios(two_levels_deep())
    assert "'pipx inject nestctl matplotlib'" in raised.value.hint


def test_the_exit_code_tells_how_the_run_ended() -> None:
    failed = Call(level="l1", round=1, host_begin_ns=0, host_end_ns=1, failure="it hangs")
    good = call("l1", 2, "cpu", 5000)
    assert choose_exit_code(results(LEVELS, [good, failed])) is ExitCode.OK
    assert choose_exit_code(results(LEVELS, [failed])) is ExitCode.FAILED
    assert choose_exit_code(results(LEVELS, [good], ending=Ending.INTERRUPTED)) is ExitCode.INTERRUPTED
    assert choose_exit_code(results(LEVELS, [good], ending=Ending.DEADLINE)) is ExitCode.DEADLINE
    assert choose_exit_code(results(LEVELS, [good], ending=Ending.FAILED)) is ExitCode.FAILED


def test_settings_follow_what_was_asked_for() -> None:
    default, quick = choose_settings(), choose_settings(is_quick=True)
    assert quick.rounds * quick.samples * quick.target_ms < default.rounds * default.samples * default.target_ms
    assert default.has_control
    assert choose_settings(rounds=9).rounds == 9
    budget = choose_settings(budget_s=300)
    assert (budget.budget_s, budget.fewest_rounds) == (300, 1)
    assert budget.rounds > 100
    until = choose_settings(until=0.03)
    assert (until.until, until.fewest_rounds, bool(until.budget_s)) == (0.03, 5, True)


def with_control(second: int, workload: str = "cpu") -> Summary:
    """The deepest level costs 9000 ns in its own visits, and `second` in those of the control."""
    calls = [
        call(level.name, number, workload, 1000 * 3**level.depth + 10 * number)
        for number in range(1, 8)
        for level in LEVELS
    ]
    again = [call("l2", number, workload, second - 10 * number) for number in range(1, 8)]
    controls = [it.model_copy(update={"is_control": True}) for it in again]
    return summarize(results(LEVELS, [*calls, *controls], workloads=choose_workloads([workload])))


def test_the_control_is_shown_with_what_could_have_been_found() -> None:
    summary = with_control(9080)
    text = on_terminal(summary)
    assert "A/A" in text
    assert re.search(r"finds [\d.]+ %", text)
    assert "A/A: l2 was visited twice" in text
    assert summary.rows[0].control is not None
    assert summary.rows[0].control.is_detectable is False
    page = html.render_report(summary)
    assert "A/A " in page
    assert "differs from itself" not in text


def test_a_level_that_differs_from_itself_is_said_and_hides_smaller_differences() -> None:
    summary = with_control(27000)
    assert "l2 differs from itself in CPU loop" in on_terminal(summary)
    (row,) = summary.rows
    # Three times as dear as the level above, and the same level came out three times as dear as itself.
    assert [ratio.is_detectable for ratio in row.figures[2].ratios] == [False, True]


def test_the_noise_of_a_level_counts_only_where_that_level_is_compared() -> None:
    """l2 came out three times as dear as itself: that says nothing of l1 against L0."""
    (row,) = with_control(27000).rows
    l1, l2 = row.figures[1:]
    assert l1.ratios[0].value == pytest.approx(3.0, rel=0.05)
    assert l1.ratios[0].noise is None
    assert l1.ratios[0].is_detectable
    assert [ratio.noise for ratio in l2.ratios] == [row.noise, row.noise]
    assert row.noise is not None
    assert row.noise.contains(l1.ratios[0].value)


def test_the_intervals_say_of_how_many_boots_they_are() -> None:
    def notes(boots: int) -> str:
        found = two_levels_deep().results
        calls = [it.model_copy(update={"boot": min(it.round, boots)}) for it in found.calls]
        return " ".join(describe_notes(summarize(found.model_copy(update={"calls": tuple(calls)}))).reading)

    assert "booted once: the intervals say nothing of what another boot would change" in notes(1)
    assert "Student's t" in notes(3)
    assert "booted 5 times" in notes(5)
    assert "(bootstrap)" in notes(5)


def test_void_samples_outliers_and_disturbed_ones_are_kept_and_said() -> None:
    def changed(number: int, **changes: object) -> Call:
        (outcome,) = (it := call("l1", number, "cpu", 5000 + number)).outcomes
        (sample,) = outcome.samples
        outcome = outcome.model_copy(update={"samples": (sample.model_copy(update=changes),)})
        return it.model_copy(update={"outcomes": (outcome,)})

    calls = [changed(number) for number in range(1, 8)]
    calls += [changed(8, elapsed_ns=90_000), changed(9, void="the exits do not add up"), changed(10, waited_ns=500)]
    summary = summarize(results(LEVELS, calls, workloads=choose_workloads(["cpu"])))
    figure = summary.rows[0].figures[1]
    assert len(figure.points) == 9
    assert [point.value for point in figure.points if point.is_outlier] == [90.0]
    text = on_terminal(summary)
    assert "without a CPU for over 1 % of their time: 1 of 9 on l1." in text
    assert "far from the others, and kept: 1 of 9 on l1." in text
    page = html.render_report(summary)
    assert "1 of 10 samples do not count: the exits do not add up" in page
    assert "1 of 10 samples is an outlier (kept)" in page
    assert "1 of 10 samples had no CPU" in page
    alone = summarize(results(LEVELS, [changed(1, void="no exits")], workloads=choose_workloads(["cpu"])))
    assert alone.rows[0].figures[1].not_measured == "no exits"


def test_exits_per_operation_are_shown() -> None:
    (outcome,) = (it := call("l1", 1, "cpu", 5000)).outcomes
    outcome = outcome.model_copy(update={"samples": (outcome.samples[0].model_copy(update={"exits": 2000}),)})
    summary = summarize(results(LEVELS, [it.model_copy(update={"outcomes": (outcome,)})]))
    assert "2.00 exits each" in on_terminal(summary)
    (plot,) = plots.plot_exits(summary)
    assert "exits per operation" in plot
    assert "CPU loop" in plot
    assert plots.plot_exits(summarize(results(LEVELS, [it]))) == ()


@pytest.mark.slow
def test_many_workloads_have_several_plots_and_each_is_in_one_of_them() -> None:
    def titles(workloads: Sequence[Workload]) -> list[list[str]]:
        calls = [call(level.name, 1, workload.name, 5000) for level in LEVELS for workload in workloads]
        found = plots.plot_ratios(summarize(results(LEVELS, calls, workloads=workloads)))
        return [[it.title for it in workloads if f">{it.title}<" in plot] for plot in found]

    many, few = AGENT_WORKLOADS[: plots.MOST_ROWS + 1], AGENT_WORKLOADS[: plots.MOST_ROWS]
    first, second = titles(many)
    assert first + second == [workload.title for workload in many]
    assert 0 <= len(first) - len(second) <= 1
    assert titles(few) == [[workload.title for workload in few]]


@pytest.mark.slow
def test_what_others_published_stands_beside_with_its_source() -> None:
    text, page = on_terminal(two_levels_deep()), page_of_two_levels_deep()
    assert "published 24×, 22.7×" in text
    said = " ".join(text.split())
    assert "Published for Hypercall, on hardware: 1,575, 37,733 and 857,578 cycles" in said
    assert "SOSP 2017, tables 6 and 7" in said
    assert "1,575, 37,733 and 857,578 cycles" in page
    assert "ASPLOS 2020, table 3" in page
    names = {workload.name for workload in WORKLOADS}
    assert all(it.workload in names and it.source and it.figures for it in PUBLISHED)


@pytest.mark.slow
def test_the_noise_is_a_band_in_the_plot_and_only_where_there_is_some() -> None:
    with_band, without = html.render_report(with_control(9080)), page_of_two_levels_deep()
    assert "Grey bands" in with_band
    assert "#e9ecf0" in with_band
    assert "Grey bands" not in without


def test_a_legend_of_four_levels_is_inside_its_plot() -> None:
    names = ("L0", "l1", "l2", "l3")
    levels = [
        record(name, names[depth - 1] if depth else None, depth=depth, is_emulated=depth > 0)
        for depth, name in enumerate(names)
    ]
    calls = [call(name, 1, "cpu", 10**6) for name in names]
    svg = plots.plot_samples(summarize(results(levels, calls, workloads=choose_workloads(["cpu"]))).rows[0])
    (end,) = (float(x) for x in re.findall(r'<text[^>]* x="([\d.]+)"[^>]*>l3 \(emulated\)</text>', svg))
    # In points of 1/72 inch; a letter of DejaVu Sans at 9 points is about 5.5 wide.
    assert end + 5.5 * len("l3 (emulated)") < 72 * plots.WIDTH_INCHES
