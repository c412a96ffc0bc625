"""A summary in words and rounded figures: what the table on the terminal and the HTML report both show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from nestctl.bench.costs import harness_share, list_parts, measured_share
from nestctl.bench.published import find_published
from nestctl.bench.stats import FEWEST_FOR_INTERVAL, Spread
from nestctl.bench.summary import (
    CLOCK_TOLERANCE,
    DISTURBANCE_TOLERANCE,
    Figure,
    Ratio,
    Row,
    Summary,
    widest,
)
from nestctl.model.samples import Ending, LevelRecord, Results

EMULATED = "EMULATED"
EMULATED_NOTE = "emulated, not the cost of hardware"
KVM_IN_EMULATION = "A real KVM guest, of a level whose processor is emulated."
SAME = "≈"
ENDINGS = {
    Ending.COMPLETE: "",
    Ending.INTERRUPTED: "Partial: the run was interrupted; what is here was measured before.",
    Ending.DEADLINE: "Partial: the time for the run was over; what is here was measured before.",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One workload on one level in words; either `figure` or `not_measured` is empty."""

    level: str
    is_emulated: bool
    figure: str
    ratios: tuple[str, ...]
    extent: str
    not_measured: str
    remark: str
    exits: str
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One workload; `hows` and `remarks` say how its figures were taken and what to know about them.

    `noise` is the ratio of two series of one level, and `finds` the change that would be found four times in five.
    `published` is what others measured on hardware, with its source.
    """

    name: str
    title: str
    unit: str
    about: str
    cells: tuple[Cell, ...]
    hows: tuple[str, ...]
    remarks: tuple[str, ...]
    noise: str
    finds: str
    published_short: str
    published: str


@dataclass(frozen=True, kw_only=True)
class Head:
    """One level; `facts` are pairs of a name and a value."""

    name: str
    place: str
    is_emulated: bool
    remark: str
    facts: tuple[tuple[str, str], ...]


def describe_lines(summary: Summary) -> tuple[Line, ...]:
    """Put every workload into words, in the order they were asked for."""
    return tuple(_describe_line(row) for row in summary.rows)


def describe_levels(summary: Summary) -> tuple[Head, ...]:
    """Put every level into words, with the part of its fingerprint that explains figures most often."""
    drifts = {clock.level: clock.drift for clock in summary.clocks}
    return tuple(_describe_level(level, drifts[level.name]) for level in summary.results.levels)


def describe_notes(summary: Summary) -> tuple[str, ...]:
    """Say what has to be known to read the figures, the most important first."""
    return tuple(_notes(summary))


def format_value(value: float) -> str:
    """Round to three significant digits, without exponents."""
    return _format(value, _digits(value))


def format_spread(described: Spread, unit: str) -> str:
    """Write '4.38 ns ± 0.06': the deviation with the decimals of the median, and at least one digit of its own.

    A single value has no deviation.
    """
    text = f"{format_value(described.median)} {unit}"
    if described.count == 1:
        return text
    return f"{text} ± {_format(described.mad, max(_digits(described.median), _digits(described.mad) - 2))}"


def format_percent(fraction: float) -> str:
    """Write 0.0432 as '4.3 %': two digits, and nothing that is too large to be believed."""
    percent = fraction * 100
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.1f} %"


def format_ratio(ratio: Ratio, *, names_level: bool = True) -> str:
    """Write '16.4× L0 [15.5–17.0]', without the level it is compared with where that is clear."""
    text = f"{format_value(ratio.value)}×" + (f" {ratio.to}" if names_level else "")
    if ratio.interval is None:
        return text
    mark = "" if ratio.is_detectable else f" {SAME}"
    return f"{text} [{format_value(ratio.interval.low)}–{format_value(ratio.interval.high)}]{mark}"


def _digits(value: float) -> int:
    """Count the decimals (negative before the point) that three significant digits need."""
    return 2 - math.floor(math.log10(abs(value))) if value else 0


def _format(value: float, digits: int) -> str:
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def _notes(summary: Summary) -> Iterator[str]:
    if ENDINGS[summary.results.ending]:
        yield ENDINGS[summary.results.ending]
    if emulated := [level.name for level in summary.results.levels if level.is_emulated]:
        yield f"{EMULATED} ({', '.join(emulated)}): {EMULATED_NOTE}."
    rounds = max((call.round for call in summary.results.calls), default=0)
    yield (
        f"Medians of {rounds} round{'' if rounds == 1 else 's'} ± median absolute deviation (without ±: one value). "
        "2× means twice as dear as the level named, whatever the unit."
    )
    yield from _interval_notes(summary, rounds)
    yield from _control_notes(summary)
    yield from _precision_notes(summary)
    for clock in summary.clocks:
        if clock.drift is not None and clock.is_wrong:
            yield (
                f"The clock of {clock.level} went {clock.drift:+.2%} against this machine's (more than "
                f"{CLOCK_TOLERANCE * 1e6:.0f} ppm): its figures are not to be trusted."
            )
    yield from _disturbance_notes(summary)
    for level in summary.results.levels:
        if failed := [call for call in summary.failures if call.level == level.name]:
            yield f"{level.name}: {len(failed)} of its visits failed, the first with: {failed[0].failure}"
    yield from _cost_notes(summary.results)
    yield from summary.results.left_out


def _cost_notes(results: Results) -> Iterator[str]:
    parts = {part.text: part.seconds for part in list_parts(results)}
    if results.spent is not None and (whole_s := results.spent.whole_ns / 1e9):
        listed = ", ".join(f"{text} {seconds / whole_s:.0%}" for text, seconds in parts.items() if seconds)
        yield f"Of the {format_value(whole_s)} s of the whole run: {listed}."
        budget_s = results.settings.budget_s
        if budget_s is not None and whole_s > budget_s:
            fewest = results.settings.fewest_rounds
            yield (
                f"The run took longer than its budget of {budget_s:.0f} s: {fewest} "
                f"{'round is' if fewest == 1 else 'rounds are'} made in any case, and one that was begun is ended."
            )
    elif (share := measured_share(results)) is not None:
        yield f"{share:.0%} of the time of all visits was samples; the rest went into preparing and calibrating."
    cost = harness_share(results)
    if cost is not None:
        setup_s = sum(level.setup_ns or 0 for level in results.levels) / 1e9
        yield (
            f"nestctl's own cost within the visits: {format_percent(max(cost, 0))} of the time that the levels "
            f"measured, calibration included; and once, before them, {setup_s:.1f} s to start an agent on every level "
            "and to ask what it is."
        )


def _interval_notes(summary: Summary, rounds: int) -> Iterator[str]:
    boots = len({call.boot for call in summary.results.calls})
    if boots <= 1 and rounds < FEWEST_FOR_INTERVAL:
        yield f"Fewer than {FEWEST_FOR_INTERVAL} rounds: too few for an interval, so no ratio says how sure it is."
        return
    kind = "Student's t" if 1 < boots < FEWEST_FOR_INTERVAL else "bootstrap"
    yield f"In brackets: 95 % interval of the ratio ({kind}); {SAME} no detectable difference."
    has_guests = any(level.above for level in summary.results.levels)
    if boots > 1:
        yield f"The guests were booted {boots} times, and what a boot changes is in the intervals."
    elif has_guests:
        yield "The guests were booted once: the intervals say nothing of what another boot would change (--fresh 1)."
    if 1 < boots < FEWEST_FOR_INTERVAL:
        yield f"So few boots make them wide: from {FEWEST_FOR_INTERVAL} boots on they are narrower."


def _disturbance_notes(summary: Summary) -> Iterator[str]:
    """Count over all workloads of a level; the report has them for each."""
    for place, level in enumerate(summary.results.levels):
        figures = [row.figures[place] for row in summary.rows]
        samples = sum(len(figure.points) for figure in figures)
        if disturbed := sum(figure.disturbed for figure in figures):
            yield (
                f"{level.name}: {disturbed} of {samples} samples had no CPU for over {DISTURBANCE_TOLERANCE:.0%} of "
                "their time: something else ran there, or above."
            )
        if unlike := sum(figure.unlike_clock for figure in figures):
            yield (
                f"{level.name}: of {unlike} of {samples} samples the level's clock says another time than this "
                "machine's around them."
            )
        if outliers := sum(point.is_outlier for figure in figures for point in figure.points):
            yield f"{level.name}: {outliers} of {samples} samples are far from the others, and kept."


def control_level(summary: Summary) -> str:
    """Name the level that was measured as if it were two, if there is one."""
    return next((call.level for call in summary.results.calls if call.is_control), "")


def _control_notes(summary: Summary) -> Iterator[str]:
    if not (name := control_level(summary)):
        return
    yield (
        f"A/A: {name} was visited twice in every round and compared with itself. A ratio of {name} to another level "
        "that lies inside the interval of that is no detectable difference; 'finds 5 %' is the change of it that would "
        "be found four times in five."
    )
    if loud := [row.workload.title for row in summary.rows if row.control and _is_unlike_itself(row.control)]:
        where = ", ".join(loud)
        yield f"{name} differs from itself in {where}: something else was at work, or it is one time in twenty."


def _is_unlike_itself(control: Ratio) -> bool:
    return control.interval is not None and not control.interval.contains(1.0)


def _precision_notes(summary: Summary) -> Iterator[str]:
    until = summary.results.settings.until
    if until is None:
        return
    interval = widest(summary)
    reached = "was not reached" if interval is None or interval.half_width > until else "was reached"
    width = f"; the widest interval is ± {interval.half_width:.1%}" if interval else ""
    yield (
        f"Rounds were repeated until ± {until:.1%}, which {reached}{width}. Stopping when the intervals happen to be "
        "narrow makes them a little too narrow."
    )


def _describe_line(row: Row) -> Line:
    published = find_published(row.workload.name)
    ratios = "; ".join(it.short for it in published if it.short)
    return Line(
        name=row.workload.name,
        title=row.workload.title,
        unit=row.workload.unit,
        about=row.workload.about,
        cells=tuple(_describe_cell(figure) for figure in row.figures),
        hows=tuple(dict.fromkeys(figure.how for figure in row.figures if figure.how)),
        remarks=tuple(f"{figure.level.name}: {figure.remark}" for figure in row.figures if figure.remark),
        noise=format_ratio(row.control, names_level=False) if row.control else "",
        finds=f"finds {format_percent(row.detectable)}" if row.detectable is not None else "",
        published_short=f"published {ratios} on hardware" if ratios else "",
        published=" ".join(f"{it.figures[0].upper()}{it.figures[1:]}. {it.source}." for it in published),
    )


def _describe_cell(figure: Figure) -> Cell:
    described, unit = figure.spread, figure.workload.unit
    extent = ""
    if described is not None and described.count > 1:
        low, high = format_value(described.minimum), format_value(described.maximum)
        extent = f"{described.count} rounds, {low} to {high}"
    return Cell(
        level=figure.level.name,
        is_emulated=figure.level.is_emulated,
        figure=format_spread(described, unit) if described else "",
        ratios=tuple(format_ratio(ratio) for ratio in figure.ratios),
        extent=extent,
        not_measured=figure.not_measured,
        remark=figure.remark,
        exits="" if figure.exits_per_operation is None else f"{format_value(figure.exits_per_operation)} exits each",
        flags=tuple(_flags(figure)),
    )


def _flags(figure: Figure) -> Iterator[str]:
    samples = len(figure.points) + len(figure.void)
    if figure.void:
        yield f"{len(figure.void)} of {samples} samples do not count: {figure.void[0]}"
    if outliers := sum(point.is_outlier for point in figure.points):
        yield f"{outliers} of {samples} samples {'is an outlier' if outliers == 1 else 'are outliers'} (kept)"
    if figure.unlike_clock:
        yield f"{figure.unlike_clock} of {samples} samples took another time by L0's clock"
    if figure.disturbed:
        yield f"{figure.disturbed} of {samples} samples had no CPU for over {DISTURBANCE_TOLERANCE:.0%} of their time"


def _describe_level(level: LevelRecord, drift: float | None) -> Head:
    names = {
        "cpu_model": "CPU",
        "cpus": "CPUs",
        "memory_mib": "Memory (MiB)",
        "kernel": "Kernel",
        "qemu": "QEMU",
        "libvirt": "libvirt",
        "clocksource": "Clock source",
        "kvm_backend": "Behind /dev/kvm",
        "transparent_hugepages": "Huge pages",
        "largest_cache": "Largest cache",
        "check.can_nest": "Can nest (check)",
        "check.nests_well": "Nests well (check)",
        "pinned": "Pinned",
    }
    facts = [(title, level.environment[name]) for name, title in names.items() if name in level.environment]
    facts.append(("Clock against L0", "not measurable" if drift is None else f"{drift:+.2%}"))
    place = [f"level {level.depth}", level.accelerator]
    return Head(
        name=level.name,
        place=", ".join(part for part in place if part),
        is_emulated=level.is_emulated,
        remark=KVM_IN_EMULATION if level.is_emulated and level.accelerator == "kvm" else "",
        facts=tuple(facts),
    )
