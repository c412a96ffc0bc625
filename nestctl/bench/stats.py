"""Statistics of a few values: robust ones, because a measured series has outliers and they are kept."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

DRAWS = 4000  # the ends of the interval then move by less than a tenth of its width from seed to seed
CONFIDENCE = 0.95
# With n values in each series two that are the same come out wholly apart, and so as different, in 2 of C(2n, n) cases:
# 10 % with three. Simulated with 400 pairs of equal series (tests/unit/bench/test_stats.py), the percentile interval
# calls 10 % of them different with three values, 8 % with four, and at most 5 % from five on.
FEWEST_FOR_INTERVAL = 5


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median, median absolute deviation (not scaled), and the extremes of `count` values."""

    median: float
    mad: float
    minimum: float
    maximum: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Interval:
    low: float
    high: float

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high


def spread(values: Sequence[float]) -> Spread:
    """Describe at least one value."""
    median = statistics.median(values)
    return Spread(
        median=median,
        mad=statistics.median(abs(value - median) for value in values),
        minimum=min(values),
        maximum=max(values),
        count=len(values),
    )


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float], *, seed: int = 1) -> Interval | None:
    """Bootstrap the 95 % percentile interval of median(numerators) / median(denominators).

    Both series are resampled on their own (Efron and Tibshirani 1993, chapter 13). The seed is fixed, so the same
    samples give the same interval. None when a series is too short to say anything: fewer than five values.
    """
    if min(len(numerators), len(denominators)) < FEWEST_FOR_INTERVAL:
        return None
    generator = random.Random(seed)  # noqa: S311  resampling, not a secret
    ratios = sorted(
        _resampled_median(generator, numerators) / _resampled_median(generator, denominators) for _ in range(DRAWS)
    )
    outside = int(DRAWS * (1 - CONFIDENCE) / 2)
    return Interval(low=ratios[outside], high=ratios[-1 - outside])


def _resampled_median(generator: random.Random, values: Sequence[float]) -> float:
    drawn = sorted(generator.choices(values, k=len(values)))
    middle = len(drawn) // 2
    return drawn[middle] if len(drawn) % 2 else (drawn[middle - 1] + drawn[middle]) / 2
