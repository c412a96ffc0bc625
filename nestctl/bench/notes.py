"""What has to be known of a run, in sentences: what its figures are worth, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nestctl.bench.costs import DEAREST_PAUSES, harness_share, list_parts, measured_share, pause_share
from nestctl.bench.report import (
    EMULATED,
    EMULATED_NOTE,
    ENDINGS,
    SAME,
    WIDE,
    control_level,
    format_percent,
    format_share,
    format_value,
)
from nestctl.bench.stats import FEWEST_FOR_INTERVAL
from nestctl.bench.summary import CLOCK_TOLERANCE, DISTURBANCE_TOLERANCE, Figure, Ratio, Summary, widest
from nestctl.model.samples import Results


@dataclass(frozen=True, kw_only=True)
class Notes:
    """`warnings` stand before the figures: nobody may miss them. The others explain, and stand below."""

    warnings: tuple[str, ...]
    reading: tuple[str, ...]
    cost: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def sections(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """What stands below the figures, under its headings."""
        sections = (
            ("How to read this", self.reading),
            ("What it cost", self.cost),
            ("What was left out", self.left_out),
        )
        return tuple((heading, notes) for heading, notes in sections if notes)

    @property
    def below(self) -> tuple[str, ...]:
        """The same without headings."""
        return (*self.reading, *self.cost, *self.left_out)


def describe_notes(summary: Summary) -> Notes:
    """Say what has to be known, of each kind the most important first."""
    return Notes(
        warnings=tuple(_warnings(summary)),
        reading=tuple(_reading(summary)),
        cost=tuple(_cost(summary.results)),
        left_out=summary.results.left_out,
    )


def describe_run(summary: Summary) -> str:
    """Say in one line when and on which machine it was measured."""
    results = summary.results
    top = next((level.environment for level in results.levels if level.above is None), {})
    cpus = "1 CPU" if top.get("cpus") == "1" else "{} CPUs"
    known = (("cpu_model", "{}"), ("cpus", cpus), ("kernel", "kernel {}"))
    machine = ", ".join(text.format(top[name]) for name, text in known if name in top)
    return f"Measured {results.created}{f' on {machine},' if machine else ''} by nestctl {results.nestctl_version}."


def _warnings(summary: Summary) -> Iterator[str]:
    if ENDINGS[summary.results.ending]:
        yield ENDINGS[summary.results.ending]
    if emulated := [level.name for level in summary.results.levels if level.is_emulated]:
        yield f"{EMULATED} ({', '.join(emulated)}): {EMULATED_NOTE}."
    for level in summary.results.levels:
        if failed := [call for call in summary.failures if call.level == level.name]:
            yield f"{level.name}: {len(failed)} of its visits failed, the first with: {failed[0].failure}"
    for clock in summary.clocks:
        if clock.drift is not None and clock.is_wrong:
            yield (
                f"The clock of {clock.level} went {clock.drift * 100:+.2f} % against this machine's (more than "
                f"{CLOCK_TOLERANCE * 1e6:.0f} ppm): its figures are not to be trusted."
            )
    if unlike := _count_samples(summary, lambda figure: figure.unlike_clock):
        yield f"Samples that took another time by the level's clock than by this machine's around them: {unlike}."
    if disturbed := _count_samples(summary, lambda figure: figure.disturbed):
        share = format_share(DISTURBANCE_TOLERANCE)
        yield f"Other work left samples without a CPU for over {share} of their time: {disturbed}."
    if loud := [row.workload.title for row in summary.rows if row.control and _is_unlike_itself(row.control)]:
        yield (
            f"{control_level(summary)} differs from itself in {', '.join(loud)}: something else was at work, or it is "
            "one time in twenty."
        )


def _count_samples(summary: Summary, count: Callable[[Figure], int]) -> str:
    """Write '19 of 70 on L0, 47 of 100 on l1', over all workloads of a level; the report has them for each."""
    found = []
    for place, level in enumerate(summary.results.levels):
        figures = [row.figures[place] for row in summary.rows]
        if counted := sum(count(figure) for figure in figures):
            found.append(f"{counted} of {sum(len(figure.points) for figure in figures)} on {level.name}")
    return ", ".join(found)


def _is_unlike_itself(control: Ratio) -> bool:
    return control.interval is not None and not control.interval.contains(1.0)


def _reading(summary: Summary) -> Iterator[str]:
    rounds = max((call.round for call in summary.results.calls), default=0)
    yield (
        f"Medians of {rounds} round{'' if rounds == 1 else 's'} ± median absolute deviation (without ±: one value). "
        "2× means twice as dear as the level named, whatever the unit."
    )
    yield from _intervals(summary, rounds)
    if name := control_level(summary):
        inside = (
            f" A ratio of {name} to another level that lies inside the interval of that is no detectable difference; "
            "'finds 5 %' is the change of it that would be found four times in five."
        )
        has_noise = any(row.noise for row in summary.rows)
        yield f"A/A: {name} was visited twice in every round and compared with itself.{inside if has_noise else ''}"
    yield from _brackets(summary.results)
    yield from _precision(summary)
    if outliers := _count_samples(summary, lambda figure: sum(point.is_outlier for point in figure.points)):
        yield f"Samples that are far from the others, and kept: {outliers}."


def _intervals(summary: Summary, rounds: int) -> Iterator[str]:
    boots = len({call.boot for call in summary.results.calls})
    if boots <= 1 and rounds < FEWEST_FOR_INTERVAL:
        but = ", but for times to boot" if _has_interval(summary) else ""
        yield f"Fewer than {FEWEST_FOR_INTERVAL} rounds: too few for an interval that says how sure a ratio is{but}."
        return
    kind = "Student's t" if 1 < boots < FEWEST_FOR_INTERVAL else "bootstrap"
    yield f"In brackets: 95 % interval of the ratio ({kind}); {SAME} no detectable difference."
    has_guests = any(level.above for level in summary.results.levels)
    if boots > 1:
        yield f"The guests were booted {boots} times, and what a boot changes is in the intervals."
    elif has_guests:
        yield "The guests were booted once: the intervals say nothing of what another boot would change (--fresh 1)."
    if 1 < boots < FEWEST_FOR_INTERVAL:
        yield (
            f"So few boots make them wide ('very wide' is more than {WIDE:,} times from end to end): from "
            f"{FEWEST_FOR_INTERVAL} boots on they are narrower."
        )


def _has_interval(summary: Summary) -> bool:
    return any(ratio.interval for row in summary.rows for figure in row.figures for ratio in figure.ratios)


def _brackets(results: Results) -> Iterator[str]:
    """Say of each level in how many visits its workloads were looked at from outside, and what that cost it."""
    said = []
    for level in results.levels:
        visits = [call for call in results.calls if call.level == level.name and call.level_end_ns is not None]
        if bracketed := [call for call in visits if any(outcome.bracket for outcome in call.outcomes)]:
            cost = f"{format_percent(pause_share(bracketed[0]))} of the time of its samples"
            said.append(f"in {len(bracketed)} of {len(visits)} visits to {level.name} (pauses for it took {cost})")
    if said:
        yield (
            f"L0's clock, and exits where they are counted, around each workload: {', '.join(said)}. Where pauses take "
            f"more than {format_percent(DEAREST_PAUSES)} the first visit has to do, which had them in any case."
        )


def _precision(summary: Summary) -> Iterator[str]:
    until = summary.results.settings.until
    if until is None:
        return
    interval = widest(summary)
    reached = "was not reached" if interval is None or interval.half_width > until else "was reached"
    width = f"; the widest interval is ± {format_percent(interval.half_width)}" if interval else ""
    yield (
        f"Rounds were repeated until ± {format_percent(until)}, which {reached}{width}. Stopping when the intervals "
        "happen to be narrow makes them a little too narrow."
    )


def _cost(results: Results) -> Iterator[str]:
    parts = {part.text: part.seconds for part in list_parts(results)}
    if results.spent is not None and (whole_s := results.spent.whole_ns / 1e9):
        listed = ", ".join(f"{text} {format_share(seconds / whole_s)}" for text, seconds in parts.items() if seconds)
        yield f"Of the {format_value(whole_s)} s of the whole run: {listed}."
        budget_s = results.settings.budget_s
        if budget_s is not None and whole_s > budget_s:
            fewest = results.settings.fewest_rounds
            yield (
                f"The run took longer than its budget of {budget_s:.0f} s: {fewest} "
                f"{'round is' if fewest == 1 else 'rounds are'} made in any case, and one that was begun is ended."
            )
    elif (share := measured_share(results)) is not None:
        rest = "the rest went into preparing and calibrating"
        yield f"{format_share(share)} of the time of all visits was samples; {rest}."
    cost = harness_share(results)
    if cost is not None:
        setup_s = sum(level.setup_ns or 0 for level in results.levels) / 1e9
        yield (
            f"nestctl's own cost within the visits: {format_percent(max(cost, 0))} of the time that the levels "
            f"measured, calibration included; and before them {setup_s:.1f} s in all, to start an agent on every level "
            "and to ask what it is."
        )
