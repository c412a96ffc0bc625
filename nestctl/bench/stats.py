"""Statistics of a few values: robust ones, because a measured series has outliers and they are kept."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

DRAWS = 4000  # the ends of the interval then move by less than a tenth of its width from seed to seed
CONFIDENCE = 0.95
# With n values in each series two that are the same come out wholly apart, and so as different, in 2 of C(2n, n) cases:
# 10 % with three. Simulated with 400 pairs of equal series (tests/unit/bench/test_stats.py), the percentile interval
# calls 10 % of them different with three values, 8 % with four, and at most 5 % from five on.
FEWEST_FOR_INTERVAL = 5
# Half the width of a 95 % interval, and the effect that is found four times in five with 5 % false alarms, both in
# standard errors of a normal estimate (1.96 + 0.84: Cohen 1988, section 2.4).
HALF_WIDTH_ERRORS = 1.96
DETECTED_ERRORS = 2.80
# Modified z-score above which a value is called an outlier: Iglewicz and Hoaglin 1993, volume 16, section 3.
OUTLIER_SCORE = 3.5
MAD_TO_DEVIATION = 1.4826


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

    @property
    def half_width(self) -> float:
        """How far the ends of an interval of ratios lie from its middle: 0.03 is 3 %, up or down."""
        return math.sqrt(self.high / self.low) - 1 if self.low > 0 else math.inf

    def with_inverse(self) -> Interval:
        """Cover the interval and that of 1 / ratio: which of two equal series is divided by the other is chance."""
        if self.low <= 0:
            return Interval(low=0.0, high=math.inf)
        return Interval(low=min(self.low, 1 / self.high), high=max(self.high, 1 / self.low))


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


def is_outlier(value: float, described: Spread) -> bool:
    """Say whether a value lies far from the others; where half of them are equal nothing can be said, and it is no."""
    if described.mad == 0:
        return False
    return abs(value - described.median) > OUTLIER_SCORE * MAD_TO_DEVIATION * described.mad


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float], *, seed: int = 1) -> Interval | None:
    """Bootstrap the 95 % percentile interval of median(numerators) / median(denominators).

    Both series are resampled on their own (Efron and Tibshirani 1993, chapter 13). The seed is fixed, so the same
    samples give the same interval. None when a series is too short to say anything: fewer than five values.
    """
    if min(len(numerators), len(denominators)) < FEWEST_FOR_INTERVAL:
        return None
    above, below = (
        _resampled_medians(tuple(numerators), 2 * seed),
        _resampled_medians(tuple(denominators), 2 * seed + 1),
    )
    ratios = sorted(numerator / denominator for numerator, denominator in zip(above, below, strict=True))
    outside = int(DRAWS * (1 - CONFIDENCE) / 2)
    return Interval(low=ratios[outside], high=ratios[-1 - outside])


def detectable_effect(interval: Interval) -> float:
    """Say which change would be found four times in five: 0.04 is 4 %.

    `interval` is that of a ratio of equal series, measured as the others are. Its width on a logarithmic scale gives
    the standard error.
    """
    if interval.low <= 0:
        return math.inf
    error = math.log(interval.high / interval.low) / (2 * HALF_WIDTH_ERRORS)
    return math.exp(DETECTED_ERRORS * error) - 1


@lru_cache(maxsize=1024)
def _resampled_medians(values: tuple[float, ...], seed: int) -> tuple[float, ...]:
    generator = random.Random(seed)  # noqa: S311  resampling, not a secret
    return tuple(_resampled_median(generator, values) for _ in range(DRAWS))


def _resampled_median(generator: random.Random, values: Sequence[float]) -> float:
    drawn = sorted(generator.choices(values, k=len(values)))
    middle = len(drawn) // 2
    return drawn[middle] if len(drawn) % 2 else (drawn[middle - 1] + drawn[middle]) / 2
