"""What the raw samples say: for every workload and level a median with its spread, and how much dearer it is."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nestctl.bench.stats import Interval, Spread, detectable_effect, is_outlier, ratio_interval, spread
from nestctl.model.samples import Better, Call, LevelRecord, Outcome, Results, Sample, Workload

CLOCK_TOLERANCE = 1e-3  # what NTP may correct a clock by is half of that (500 ppm, adjtimex(2)); more is no oscillator
# What the two messages around samples may take before a level's clock is suspected, for each level they go through.
MESSAGE_NS = 100_000_000
MESSAGE_SHARE = 0.05
KNOWN_WELL = 0.05  # a drift whose uncertainty is larger is not said
DISTURBANCE_TOLERANCE = 0.01  # of a sample, spent ready and without a CPU
_Stamps = tuple[int, int, int, int]  # L0's clock and the level's when a call began, and when it ended
NOT_REACHED = "the run ended before it was measured"


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as dear a level is as the level `to`; above 1 is slower, whatever the unit.

    `noise` is where ratios of two equal series of one of the two levels lie, if one of them was the control's.
    """

    to: str
    value: float
    interval: Interval | None
    noise: Interval | None = None

    @property
    def is_detectable(self) -> bool | None:
        """Whether the levels differ by more than the noise; None when there are too few values to say."""
        if self.interval is None:
            return None
        is_noise = self.noise is not None and self.noise.contains(self.value)
        return not self.interval.contains(1.0) and not is_noise


@dataclass(frozen=True, kw_only=True)
class Point:
    """One sample as a value in the workload's unit; `seconds` since the run began, by the clock of L0."""

    round: int
    seconds: float
    value: float
    is_outlier: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One workload on one level. `boots` has the medians of the rounds of each boot; without any there is a reason.

    The reason is in `not_measured`. A time to boot is a boot of its own. `exits_per_operation` is what KVM counted: of
    a micro-guest its own, of other workloads those of the whole level, by the level above. `void` are the reasons of
    samples that do not count, `disturbed` is how many of the others were kept from a CPU for more than 1 % of their
    time, and `unlike_clock` in how many the clocks of the level and of L0 disagree.
    """

    level: LevelRecord
    workload: Workload
    boots: tuple[tuple[float, ...], ...]
    points: tuple[Point, ...]
    spread: Spread | None
    ratios: tuple[Ratio, ...] = ()
    not_measured: str = ""
    how: str = ""
    remark: str = ""
    exits_per_operation: float | None = None
    void: tuple[str, ...] = ()
    disturbed: int = 0
    unlike_clock: int = 0

    @property
    def values(self) -> tuple[float, ...]:
        """One median per round, of all boots."""
        return tuple(value for boot in self.boots for value in boot)


@dataclass(frozen=True, kw_only=True)
class ClockCheck:
    """How fast a level's raw clock went against L0's: 0.01 is one per cent too fast, None is not measurable.

    `uncertainty` is how much of that may be the time that calls took to begin and to end.
    """

    level: str
    drift: float | None
    uncertainty: float = 0.0

    @property
    def is_wrong(self) -> bool:
        """Whether the clock is off by more than 1000 ppm even if calls took as long as they may have."""
        return self.drift is not None and abs(self.drift) - self.uncertainty > CLOCK_TOLERANCE


@dataclass(frozen=True, kw_only=True)
class Row:
    """One workload at every level. `control` is the ratio of two series of the level `to`: 1, but for the noise."""

    workload: Workload
    figures: tuple[Figure, ...]
    control: Ratio | None = None

    @property
    def noise(self) -> Interval | None:
        """Where the ratio of two equal series of the control's level lies, whichever is divided by the other."""
        return self.control.interval.with_inverse() if self.control and self.control.interval else None

    def noise_of(self, *levels: str) -> Interval | None:
        """Return the noise for a ratio of these levels; None where none of them was the control's.

        What one level varies by says nothing of another: an emulated guest may be a hundred times as noisy as L0.
        """
        return self.noise if self.control and self.control.to in levels else None

    @property
    def detectable(self) -> float | None:
        """The change that would be found four times in five: 0.04 is 4 %."""
        return detectable_effect(self.control.interval) if self.control and self.control.interval else None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run says: its raw results, a row for each workload, a check of each level's clock, visits that failed."""

    results: Results
    rows: tuple[Row, ...]
    clocks: tuple[ClockCheck, ...]
    failures: tuple[Call, ...]


def summarize(results: Results) -> Summary:
    """Compute every figure of a run: nothing in it is kept in the file of a run."""
    return Summary(
        results=results,
        rows=tuple(_summarize_row(results, workload) for workload in results.workloads),
        clocks=tuple(check_clock(level.name, results.calls) for level in results.levels),
        failures=tuple(call for call in results.calls if call.failure),
    )


def check_clock(level: str, calls: Iterable[Call]) -> ClockCheck:
    """Compare a level's clock with L0's over the calls of a boot.

    A guest's clock begins anew with each boot: of several the one counts in which the clock was wrong, else the one
    that is known best. One that is known to less than the tolerance says nothing.
    """
    boots: dict[int, list[_Stamps]] = {}
    for call in calls:
        if call.level == level and call.level_begin_ns is not None and call.level_end_ns is not None:
            stamps = (call.host_begin_ns, call.level_begin_ns, call.host_end_ns, call.level_end_ns)
            boots.setdefault(call.boot, []).append(stamps)
    checks = [check for stamped in boots.values() if (check := _check_boot(level, stamped))]
    known = [check for check in checks if check.is_wrong or check.uncertainty <= KNOWN_WELL]
    none = ClockCheck(level=level, drift=None)
    return min(known, key=lambda check: (not check.is_wrong, check.uncertainty), default=none)


def _check_boot(level: str, stamped: Sequence[_Stamps]) -> ClockCheck | None:
    """Say how fast a clock went between two calls, one of the first half and one of the second.

    A call takes a varying time to begin and to end, which disturbs the begin stamps and the end stamps apart; a clock
    that is wrong disturbs both. So the smaller of the two drifts counts.
    """
    half = (len(stamped) + 1) // 2
    if not stamped[half:]:
        return None
    first, last = min(stamped[:half], key=_slack_ns), min(stamped[half:], key=_slack_ns)
    if last[0] <= first[0] or last[2] <= first[2]:
        return None
    by_begin = (last[1] - first[1]) / (last[0] - first[0]) - 1
    by_end = (last[3] - first[3]) / (last[2] - first[2]) - 1
    slack_ns = max(_slack_ns(first), _slack_ns(last), 0)
    span_ns = min(last[0] - first[0], last[2] - first[2])
    return ClockCheck(level=level, drift=min(by_begin, by_end, key=abs), uncertainty=slack_ns / span_ns)


def _slack_ns(stamps: _Stamps) -> int:
    """Say how much longer a call was by L0's clock than what the level did in it: its time to begin and to end."""
    return (stamps[2] - stamps[0]) - (stamps[3] - stamps[1])


def widest(summary: Summary) -> Interval | None:
    """Find the least certain ratio of a level to the one above; None where a ratio has no interval yet."""
    ratios = [figure.ratios[0] for row in summary.rows for figure in row.figures if figure.points and figure.ratios]
    intervals = [ratio.interval for ratio in ratios if ratio.interval]
    if not intervals or len(intervals) < len(ratios):
        return None
    return max(intervals, key=lambda interval: interval.half_width)


def is_precise(results: Results) -> bool:
    """Tell whether every ratio is known as well as the settings ask for; no where they ask for nothing."""
    if results.settings.until is None:
        return False
    interval = widest(summarize(results))
    return interval is not None and interval.half_width <= results.settings.until


def _summarize_row(results: Results, workload: Workload) -> Row:
    figures = {level.name: _summarize_figure(results, level, workload) for level in results.levels}
    row = Row(workload=workload, figures=(), control=_compare_control(results, workload, figures))
    return replace(row, figures=tuple(_with_ratios(figure, figures, row) for figure in figures.values()))


def _compare_control(results: Results, workload: Workload, figures: dict[str, Figure]) -> Ratio | None:
    """Compare the second series of the control's level with its first."""
    controls = {call.level for call in results.calls if call.is_control}
    if not controls:
        return None
    first = figures[controls.pop()]
    return compare(_summarize_figure(results, first.level, workload, is_control=True), first)


def _summarize_figure(results: Results, level: LevelRecord, workload: Workload, *, is_control: bool = False) -> Figure:
    calls = [call for call in results.calls if call.level == level.name and call.is_control == is_control]
    given = [outcome for outcome in level.outcomes if outcome.workload == workload.name and not is_control]
    taken = [(call, outcome) for call in calls for outcome in call.outcomes if outcome.workload == workload.name]
    outcomes = given + [outcome for _, outcome in taken]
    boots: list[tuple[float, ...]] = [(workload.value(sample),) for outcome in given for sample in outcome.samples]
    boots += _by_boot(workload, taken)
    values = [value for boot in boots for value in boot]
    samples = [sample for outcome in outcomes for sample in _valid(outcome)]
    return Figure(
        level=level,
        workload=workload,
        boots=tuple(boots),
        points=tuple(_points(results, workload, taken)),
        spread=spread(values) if values else None,
        not_measured="" if values else _reason(outcomes, calls),
        how=_last(outcome.how for outcome in outcomes),
        remark=_last(outcome.remark for outcome in outcomes),
        exits_per_operation=_exits(outcomes),
        void=tuple(sample.void for outcome in outcomes for sample in outcome.samples if sample.void),
        disturbed=sum(_is_disturbed(sample) for sample in samples),
        unlike_clock=sum(len(_valid(outcome)) for call, outcome in taken if disagrees(call, outcome, level.depth)),
    )


def _valid(outcome: Outcome) -> tuple[Sample, ...]:
    return tuple(sample for sample in outcome.samples if not sample.void)


def _exits(outcomes: Sequence[Outcome]) -> float | None:
    counted = [
        sample.exits / sample.operations
        for outcome in outcomes
        for sample in _valid(outcome)
        if sample.exits is not None
    ]
    counted += [
        outcome.bracket.exits / sum(sample.operations for sample in outcome.samples)
        for outcome in outcomes
        if outcome.bracket and outcome.bracket.exits is not None and _valid(outcome)
    ]
    return statistics.median(counted) if counted else None


def disagrees(call: Call, outcome: Outcome, depth: int) -> bool:
    """Tell whether samples took longer by the level's clock than L0's was around them, or much less.

    What is around them is the bracket of the workload, else the visit; only the first can be too long. Messages take
    time, so the level's time may be shorter by 5 % and 0.1 s for each level that they go through.
    """
    stamped = [sample for sample in outcome.samples if sample.begin_ns is not None and sample.end_ns is not None]
    if not stamped:
        return False
    inside_ns = max(it.end_ns or 0 for it in stamped) - min(it.begin_ns or 0 for it in stamped)
    if outcome.bracket is None:
        return inside_ns > (call.host_end_ns - call.host_begin_ns) * (1 + CLOCK_TOLERANCE)
    around_ns = outcome.bracket.host_end_ns - outcome.bracket.host_begin_ns
    return not around_ns * (1 - MESSAGE_SHARE) - depth * MESSAGE_NS <= inside_ns <= around_ns * (1 + CLOCK_TOLERANCE)


def _is_disturbed(sample: Sample) -> bool:
    return (sample.waited_ns or 0) + (sample.stolen_ns or 0) > DISTURBANCE_TOLERANCE * sample.elapsed_ns


def _median(workload: Workload, outcome: Outcome) -> float:
    return statistics.median(workload.value(sample) for sample in _valid(outcome))


def _by_boot(workload: Workload, taken: Sequence[tuple[Call, Outcome]]) -> list[tuple[float, ...]]:
    found: dict[int, list[float]] = {}
    for call, outcome in taken:
        if _valid(outcome):
            found.setdefault(call.boot, []).append(_median(workload, outcome))
    return [tuple(values) for values in found.values()]


def _points(results: Results, workload: Workload, taken: Sequence[tuple[Call, Outcome]]) -> Iterable[Point]:
    """Place each sample on L0's clock, counted back from the end of its call: ending takes less time than starting."""
    start_ns = min((call.host_begin_ns for call in results.calls), default=0)
    values = [workload.value(sample) for _, outcome in taken for sample in _valid(outcome)]
    described = spread(values) if values else None
    for call, outcome in taken:
        for sample in _valid(outcome):
            is_stamped = call.level_end_ns is not None and sample.end_ns is not None
            before_end_ns = (call.level_end_ns or 0) - (sample.end_ns or 0) if is_stamped else 0
            value = workload.value(sample)
            yield Point(
                round=call.round,
                seconds=(call.host_end_ns - before_end_ns - start_ns) / 1e9,
                value=value,
                is_outlier=described is not None and is_outlier(value, described),
            )


def _reason(outcomes: Sequence[Outcome], calls: Sequence[Call]) -> str:
    reasons = [outcome.not_measured for outcome in outcomes if outcome.not_measured]
    reasons += [sample.void for outcome in outcomes for sample in outcome.samples]
    reasons += [call.failure for call in calls if call.failure]
    return reasons[0] if reasons else NOT_REACHED


def _last(texts: Iterable[str]) -> str:
    return next((text for text in reversed([*texts]) if text), "")


def _with_ratios(figure: Figure, figures: dict[str, Figure], row: Row) -> Figure:
    """Compare with the level above, and with the top of the tree where that is another."""
    above = _chain(figure.level, figures)
    to = dict.fromkeys([*above[:1], *above[-1:]])
    ratios = (ratio for name in to if (ratio := compare(figure, figures[name])))
    own = figure.level.name
    return replace(figure, ratios=tuple(replace(ratio, noise=row.noise_of(own, ratio.to)) for ratio in ratios))


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
        interval=ratio_interval(slow.boots, fast.boots),
    )
