"""A summary in words and rounded figures: what the table on the terminal and the HTML report both show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from nestctl.bench.published import find_published
from nestctl.bench.stats import Spread
from nestctl.bench.summary import DISTURBANCE_TOLERANCE, Figure, Ratio, Row, Summary
from nestctl.model.samples import Ending, LevelRecord

EMULATED = "EMULATED"
EMULATED_NOTE = "emulated, not the cost of hardware"
KVM_IN_EMULATION = "A real KVM guest, of a level whose processor is emulated."
SAME = "≈"
WIDE = 1000  # an interval whose ends are further apart says nothing, and its ends would look as if they did
ENDINGS = {
    Ending.COMPLETE: "",
    Ending.INTERRUPTED: "Partial: the run was interrupted; what is here was measured before.",
    Ending.DEADLINE: "Partial: the time for the run was over; what is here was measured before.",
    Ending.FAILED: "Partial: the guests did not come up again; what is here was measured before.",
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


def format_effect(fraction: float) -> str:
    """Write a change that can be found: '26 %', and 'over 10×' of what is no more precise than that."""
    return format_percent(fraction) if fraction < 9 else "over 10×"


def format_percent(fraction: float) -> str:
    """Write 0.0432 as '4.3 %': two digits, and nothing that is too large to be believed."""
    percent = fraction * 100
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.1f} %"


def format_share(fraction: float) -> str:
    """Write a part of a whole: '8 %', and 'under 1 %' of what would be rounded to nothing."""
    return "under 1 %" if fraction < 0.005 else f"{fraction * 100:.0f} %"


def format_ratio(ratio: Ratio, *, names_level: bool = True) -> str:
    """Write '16.4× L0 [15.5–17.0]', without the level it is compared with where that is clear."""
    text = f"{format_value(ratio.value)}×" + (f" {ratio.to}" if names_level else "")
    if ratio.interval is None:
        return text
    low, high = ratio.interval.low, ratio.interval.high
    between = "very wide" if high > WIDE * low else f"{format_value(low)}–{format_value(high)}"
    mark = "" if ratio.is_detectable else f" {SAME}"
    return f"{text} [{between}]{mark}"


def _digits(value: float) -> int:
    """Count the decimals (negative before the point) that three significant digits need."""
    return 2 - math.floor(math.log10(abs(value))) if value else 0


def _format(value: float, digits: int) -> str:
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def control_level(summary: Summary) -> str:
    """Name the level that was measured as if it were two, if there is one."""
    return next((call.level for call in summary.results.calls if call.is_control), "")


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
        finds=f"finds {format_effect(row.detectable)}" if row.detectable is not None else "",
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
        share = format_share(DISTURBANCE_TOLERANCE)
        yield f"{figure.disturbed} of {samples} samples had no CPU for over {share} of their time"


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
    facts.append(("Clock against L0", "not measurable" if drift is None else f"{drift * 100:+.2f} %"))
    place = [f"level {level.depth}", level.accelerator]
    return Head(
        name=level.name,
        place=", ".join(part for part in place if part),
        is_emulated=level.is_emulated,
        remark=KVM_IN_EMULATION if level.is_emulated and level.accelerator == "kvm" else "",
        facts=tuple(facts),
    )
