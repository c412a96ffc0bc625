"""Two runs side by side: what changed by more than the noise, and whether they may be compared at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from nestctl.bench.stats import Interval, Spread
from nestctl.bench.summary import Figure, Ratio, Summary, compare
from nestctl.errors import UsageError
from nestctl.model.samples import LevelRecord, Results

ABSENT = "(not there)"
BOOT_ID = "boot_id"  # of a level's environment: it says which boot was measured, and is no state of a machine


class Verdict(StrEnum):
    """What became of a figure. The values are part of `nestctl.bench-compare/1` and stand in tables as they are."""

    DEARER = "dearer"
    CHEAPER = "cheaper"
    SAME = "no detectable difference"
    ONE_BOOT = "one boot: cannot tell"
    UNKNOWN = "too few values to say"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What was not the same in both runs and may be why figures differ. `level` is empty for a whole run."""

    level: str
    name: str
    before: str
    after: str

    def __str__(self) -> str:
        place = f"{self.level}: " if self.level else ""
        return f"{place}{self.name}: '{self.before}' against '{self.after}'"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One workload on one level in both runs; a `ratio` above 1 is dearer after than before, whatever the unit."""

    level: str
    workload: str
    title: str
    unit: str
    before: Spread
    after: Spread
    ratio: Ratio
    verdict: Verdict
    is_regression: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`missing` names what only one of the runs has figures for, with the run that has it."""

    before: Results
    after: Results
    threshold: float
    differences: tuple[Difference, ...]
    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    ignores_boots: bool = False

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The changes for which the exit code is 1."""
        return tuple(change for change in self.changes if change.is_regression)


def compare_runs(
    before: Summary, after: Summary, *, threshold: float, is_forced: bool = False, ignores_boots: bool = False
) -> Comparison:
    """Compare two runs; a regression is dearer beyond the noise, and with 95 % by more than `threshold` (0.05 is 5 %).

    The whole interval has to lie beyond the threshold, not the ratio alone: a run has some seventy figures, and of so
    many equal ones that look dearer by chance some are always over 5 %.

    Nothing is called dearer or cheaper where a run knows one boot only and the other knows another, unless it
    `ignores_boots`: then rounds of one boot count as if what a boot changes were nothing.
    Raises `UsageError` with the differences when the runs are not of the same machines in the same state, unless it is
    forced.
    """
    differences = tuple(find_differences(before.results, after.results))
    if differences and not is_forced:
        listed = "".join(f"\n  {difference}" for difference in differences)
        raise UsageError(
            f"The two runs are not of the same machines in the same state:{listed}",
            hint="Compare them all the same with '--force'; the differences are then part of the answer.",
        )
    earlier, later = _figures(before), _figures(after)
    noises = _noises(before, after)
    changes = tuple(
        _judge(found, noises.get(key), threshold, ignores_boots=ignores_boots)
        for key, figure in earlier.items()
        if key in later and (found := _pair(figure, later[key])) is not None
    )
    return Comparison(
        before=before.results,
        after=after.results,
        threshold=threshold,
        differences=differences,
        changes=changes,
        missing=tuple(_missing(earlier, later)),
        ignores_boots=ignores_boots,
    )


def find_differences(before: Results, after: Results) -> Iterator[Difference]:
    """Name what the figures depend on and what is not the same: versions, levels, and their fingerprints."""
    for name in ("nestctl_version",):
        yield from _differ("", name, getattr(before, name), getattr(after, name))
    for name in ("samples", "target_ms", "fresh", "has_control"):
        yield from _differ("", name, _setting(before, name), _setting(after, name))
    earlier, later = ({level.name: level for level in results.levels} for results in (before, after))
    for level in dict.fromkeys([*earlier, *later]):
        if level not in earlier or level not in later:
            yield from _differ(level, "level", _presence(level in earlier), _presence(level in later))
            continue
        old, new = _fingerprint(earlier[level]), _fingerprint(later[level])
        for name in dict.fromkeys([*old, *new]):
            yield from _differ(level, name, old.get(name, ABSENT), new.get(name, ABSENT))


def _differ(level: str, name: str, before: str, after: str) -> Iterator[Difference]:
    if before != after:
        yield Difference(level=level, name=name, before=before, after=after)


def _setting(results: Results, name: str) -> str:
    value = getattr(results.settings, name)
    return "none" if value is None else str(value).lower()


def _presence(is_there: bool) -> str:
    return "measured" if is_there else ABSENT


def _fingerprint(level: LevelRecord) -> dict[str, str]:
    """What was measured on: a level that never answered has no environment, and then nothing is known of it."""
    place = {"above": level.above or "", "accelerator": level.accelerator, "emulated": str(level.is_emulated).lower()}
    return {**place, **{name: value for name, value in level.environment.items() if name != BOOT_ID}}


def _figures(summary: Summary) -> dict[tuple[str, str], Figure]:
    return {(row.workload.name, figure.level.name): figure for row in summary.rows for figure in row.figures}


def _noises(*summaries: Summary) -> dict[tuple[str, str], Interval]:
    """Take the wider noise of both runs for each workload, on the level that was the control's."""
    found: dict[tuple[str, str], Interval] = {}
    for row in (row for summary in summaries for row in summary.rows):
        if row.control is None or row.noise is None:
            continue
        key = (row.workload.name, row.control.to)
        if key not in found or row.noise.high > found[key].high:
            found[key] = row.noise
    return found


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A figure of each run, and what they have become to each other."""

    before: Figure
    after: Figure
    ratio: Ratio
    spreads: tuple[Spread, Spread]


def _pair(before: Figure, after: Figure) -> _Pair | None:
    """Compare one figure with its later one; None where one was not measured, or not in the same way."""
    ratio = compare(after, before) if _can_compare(before, after) else None
    if ratio is None or before.spread is None or after.spread is None:
        return None
    return _Pair(before=before, after=after, ratio=ratio, spreads=(before.spread, after.spread))


def _judge(pair: _Pair, noise: Interval | None, threshold: float, *, ignores_boots: bool) -> Change:
    ratio = replace(pair.ratio, noise=noise)
    verdict = _decide(ratio)
    if verdict in {Verdict.DEARER, Verdict.CHEAPER} and not (ignores_boots or knows_boots(pair.before, pair.after)):
        verdict = Verdict.ONE_BOOT
    return Change(
        level=pair.after.level.name,
        workload=pair.after.workload.name,
        title=pair.after.workload.title,
        unit=pair.after.workload.unit,
        before=pair.spreads[0],
        after=pair.spreads[1],
        ratio=ratio,
        verdict=verdict,
        is_regression=verdict is Verdict.DEARER and ratio.interval is not None and ratio.interval.low > 1 + threshold,
    )


def knows_boots(before: Figure, after: Figure) -> bool:
    """Tell whether what a boot changes is in neither figure (both are of one and the same boot) or known from several.

    A level that nothing runs is booted by nobody between the rounds: however often its guests were, it had one boot.
    """
    old, new = (figure.level.environment.get(BOOT_ID) for figure in (before, after))
    if before.level.above is None or after.level.above is None:
        return old is not None and old == new
    counts = (len(before.boots), len(after.boots))
    return min(counts) > 1 or (counts == (1, 1) and old is not None and old == new)


def _can_compare(before: Figure, after: Figure) -> bool:
    old, new = before.workload, after.workload
    return bool(before.values and after.values) and (old.unit, old.scale, old.better) == (
        new.unit,
        new.scale,
        new.better,
    )


def _decide(ratio: Ratio) -> Verdict:
    if ratio.is_detectable is None:
        return Verdict.UNKNOWN
    if not ratio.is_detectable:
        return Verdict.SAME
    return Verdict.DEARER if ratio.value > 1 else Verdict.CHEAPER


def _missing(before: dict[tuple[str, str], Figure], after: dict[tuple[str, str], Figure]) -> Iterator[str]:
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        is_old, is_new = bool(old and old.values), bool(new and new.values)
        if is_old != is_new:
            yield f"{key[0]} on {key[1]}: only {'before' if is_old else 'after'}"
        elif old and new and is_old and not _can_compare(old, new):
            yield f"{key[0]} on {key[1]}: its unit or scale is not the same"
