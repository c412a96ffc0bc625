"""What the raw samples say: for every workload and level a median with its spread, and how much dearer it is."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nestctl.bench.stats import Interval, Spread, ratio_interval, spread
from nestctl.model.samples import Better, Call, LevelRecord, Outcome, Results, Workload

CLOCK_TOLERANCE = 0.05
NOT_REACHED = "the run ended before it was measured"


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as dear a level is as the level `to`; above 1 is slower, whatever the unit."""

    to: str
    value: float
    interval: Interval | None

    @property
    def is_detectable(self) -> bool | None:
        """Whether the levels differ by more than the noise; None when there are too few values to say."""
        return None if self.interval is None else not self.interval.contains(1.0)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One sample as a value in the workload's unit; `seconds` since the run began, by the clock of L0."""

    round: int
    seconds: float
    value: float


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One workload on one level. `values` has one median per round; without any, `not_measured` says why."""

    level: LevelRecord
    workload: Workload
    values: tuple[float, ...]
    points: tuple[Point, ...]
    spread: Spread | None
    ratios: tuple[Ratio, ...] = ()
    not_measured: str = ""
    how: str = ""
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class ClockCheck:
    """How fast a level's raw clock went against L0's: 0.01 is one per cent too fast, None is not measurable."""

    level: str
    drift: float | None

    @property
    def is_wrong(self) -> bool:
        return self.drift is not None and abs(self.drift) > CLOCK_TOLERANCE


@dataclass(frozen=True, kw_only=True)
class Row:
    workload: Workload
    figures: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True)
class Summary:
    results: Results
    rows: tuple[Row, ...]
    clocks: tuple[ClockCheck, ...]
    failures: tuple[Call, ...]


def summarize(results: Results) -> Summary:
    return Summary(
        results=results,
        rows=tuple(_summarize_row(results, workload) for workload in results.workloads),
        clocks=tuple(check_clock(level.name, results.calls) for level in results.levels),
        failures=tuple(call for call in results.calls if call.failure),
    )


def check_clock(level: str, calls: Iterable[Call]) -> ClockCheck:
    """Compare a level's clock with L0's between its first call and its last.

    A call takes a varying time to begin and to end, which disturbs the begin stamps and the end stamps apart; a clock
    that is wrong disturbs both. So the smaller of the two drifts counts.
    """
    stamped = [
        (call.host_begin_ns, call.level_begin_ns, call.host_end_ns, call.level_end_ns)
        for call in calls
        if call.level == level and call.level_begin_ns is not None and call.level_end_ns is not None
    ]
    if not stamped:
        return ClockCheck(level=level, drift=None)
    first, last = stamped[0], stamped[-1]
    if last[0] <= first[0] or last[2] <= first[2]:
        return ClockCheck(level=level, drift=None)
    by_begin = (last[1] - first[1]) / (last[0] - first[0]) - 1
    by_end = (last[3] - first[3]) / (last[2] - first[2]) - 1
    return ClockCheck(level=level, drift=min(by_begin, by_end, key=abs))


def _summarize_row(results: Results, workload: Workload) -> Row:
    figures = {level.name: _summarize_figure(results, level, workload) for level in results.levels}
    return Row(workload=workload, figures=tuple(_with_ratios(figure, figures) for figure in figures.values()))


def _summarize_figure(results: Results, level: LevelRecord, workload: Workload) -> Figure:
    calls = [call for call in results.calls if call.level == level.name]
    given = [outcome for outcome in level.outcomes if outcome.workload == workload.name]
    taken = [(call, outcome) for call in calls for outcome in call.outcomes if outcome.workload == workload.name]
    outcomes = given + [outcome for _, outcome in taken]
    values = [workload.value(sample) for outcome in given for sample in outcome.samples]
    values += [_median(workload, outcome) for _, outcome in taken if outcome.samples]
    return Figure(
        level=level,
        workload=workload,
        values=tuple(values),
        points=tuple(_points(results, workload, taken)),
        spread=spread(values) if values else None,
        not_measured="" if values else _reason(outcomes, calls),
        how=_last(outcome.how for outcome in outcomes),
        remark=_last(outcome.remark for outcome in outcomes),
    )


def _median(workload: Workload, outcome: Outcome) -> float:
    return statistics.median(workload.value(sample) for sample in outcome.samples)


def _points(results: Results, workload: Workload, taken: Sequence[tuple[Call, Outcome]]) -> Iterable[Point]:
    """Place each sample on L0's clock, counted back from the end of its call: ending takes less time than starting."""
    start_ns = min((call.host_begin_ns for call in results.calls), default=0)
    for call, outcome in taken:
        for sample in outcome.samples:
            before_end_ns = (call.level_end_ns or 0) - (sample.end_ns or 0)
            seconds = (call.host_end_ns - before_end_ns - start_ns) / 1e9
            yield Point(round=call.round, seconds=seconds, value=workload.value(sample))


def _reason(outcomes: Sequence[Outcome], calls: Sequence[Call]) -> str:
    reasons = [outcome.not_measured for outcome in outcomes] + [call.failure for call in calls if call.failure]
    return reasons[0] if reasons else NOT_REACHED


def _last(texts: Iterable[str]) -> str:
    return next((text for text in reversed([*texts]) if text), "")


def _with_ratios(figure: Figure, figures: dict[str, Figure]) -> Figure:
    """Compare with the level above, and with the top of the tree where that is another."""
    above = _chain(figure.level, figures)
    to = dict.fromkeys([*above[:1], *above[-1:]])
    return replace(figure, ratios=tuple(ratio for name in to if (ratio := compare(figure, figures[name]))))


def _chain(level: LevelRecord, figures: dict[str, Figure]) -> list[str]:
    """Name the levels above, the nearest first."""
    names: list[str] = []
    while level.above in figures and level.above not in names:
        names.append(level.above)
        level = figures[level.above].level
    return names


def compare(figure: Figure, base: Figure) -> Ratio | None:
    """Say how many times as dear `figure` is as `base`; None where one of them has no values."""
    if not (figure.values and base.values):
        return None
    slow, fast = (figure, base) if figure.workload.better is Better.LOWER else (base, figure)
    return Ratio(
        to=base.level.name,
        value=statistics.median(slow.values) / statistics.median(fast.values),
        interval=ratio_interval(slow.values, fast.values),
    )
