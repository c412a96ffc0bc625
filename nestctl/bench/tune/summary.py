"""What trials changed beyond the noise: each against the lab as it is, by the statistics of 'bench compare'. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nestctl.bench.compare import Change, Verdict, compare_runs
from nestctl.bench.summary import Summary, summarize
from nestctl.model.tune import Tried, TuneResults


class Effect(StrEnum):
    """What a setting did. The values are part of `nestctl.bench-tune-summary/1`, in the order of a report."""

    HELPED = "helped"
    HURT = "hurt"
    MIXED = "helped and hurt"
    NONE = "no detectable difference"
    UNKNOWN = "too few boots to say"
    FAILED = "could not be tried"


@dataclass(frozen=True, kw_only=True)
class Assessed:
    """A trial with what it changed. `differences` are what was not the same on the measured guest, by its own word."""

    tried: Tried
    effect: Effect
    boots: int
    changes: tuple[Change, ...] = ()
    differences: tuple[str, ...] = ()

    @property
    def found(self) -> tuple[Change, ...]:
        """The changes beyond the noise, the largest first."""
        found = (it for it in self.changes if it.verdict in {Verdict.CHEAPER, Verdict.DEARER})
        return tuple(sorted(found, key=lambda it: max(it.ratio.value, 1 / it.ratio.value), reverse=True))


@dataclass(frozen=True, kw_only=True)
class TuneSummary:
    """`comparisons` is how many figures were compared in all, `detectable` what would be found, by workload."""

    results: TuneResults
    assessed: tuple[Assessed, ...]
    comparisons: int
    detectable: dict[str, float]
    baseline: Summary | None


def summarize_tune(results: TuneResults) -> TuneSummary:
    """Compare every trial with the lab as it is, whatever differs between them: that is what was tried."""
    baseline = summarize(results.baseline) if results.baseline else None
    assessed = tuple(_assess(tried, baseline) for tried in results.tried)
    rows = baseline.rows if baseline else ()
    return TuneSummary(
        results=results,
        assessed=assessed,
        comparisons=sum(len(it.changes) for it in assessed),
        detectable={row.workload.name: row.detectable for row in rows if row.detectable is not None},
        baseline=baseline,
    )


def _assess(tried: Tried, baseline: Summary | None) -> Assessed:
    if tried.results is None or baseline is None:
        return Assessed(tried=tried, effect=Effect.FAILED if tried.failure else Effect.UNKNOWN, boots=0)
    comparison = compare_runs(baseline, summarize(tried.results), threshold=0.0, is_forced=True)
    return Assessed(
        tried=tried,
        effect=_judge([it.verdict for it in comparison.changes]),
        boots=len({call.round for call in tried.results.calls}),
        changes=comparison.changes,
        differences=tuple(str(it) for it in comparison.differences),
    )


def _judge(verdicts: list[Verdict]) -> Effect:
    helped, hurt = Verdict.CHEAPER in verdicts, Verdict.DEARER in verdicts
    if helped or hurt:
        return Effect.MIXED if helped and hurt else Effect.HELPED if helped else Effect.HURT
    return Effect.NONE if Verdict.SAME in verdicts else Effect.UNKNOWN
