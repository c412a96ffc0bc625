"""Statistics of a few values: robust ones, because a measured series has outliers and they are kept."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Boots = Sequence[Sequence[float]]  # the values of each boot: those of one are more alike than those of two

DRAWS = 4000  # the ends of the interval then move by less than a tenth of its width from seed to seed
CONFIDENCE = 0.95
# With n values in each series two that are the same come out wholly apart, and so as different, in 2 of C(2n, n) cases:
# 10 % with three. Simulated with 400 pairs of equal series (tests/unit/bench/test_stats.py), the percentile interval
# calls 10 % of them different with three values, 8 % with four, and at most 5 % from five on.
FEWEST_FOR_INTERVAL = 5
# Two-sided 95 % quantiles of Student's t with so many degrees of freedom, for fewer values than that.
STUDENT_T = {1: 12.706, 2: 4.303, 3: 3.182}
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
    """Where a ratio lies with 95 % confidence, both ends included."""

    low: float
    high: float

    def contains(self, value: float) -> bool:
        """Tell whether a value cannot be told from the ratio; the ends count as inside."""
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


def ratio_interval(numerators: Boots, denominators: Boots, *, seed: int = 1) -> Interval | None:
    """Estimate the 95 % interval of the ratio of the medians of two series, each given as the values of its boots.

    What varies from boot to boot is only seen where there are several. With five or more, boots are resampled and then
    the values within each (a percentile bootstrap: Efron and Tibshirani 1993, chapter 13; in two stages: Davison and
    Hinkley 1997, section 3.8), both series on their own, with a fixed seed. With two to four the interval is Student's,
    of the logarithms of the boots' medians, with the degrees of freedom of the shorter series. Of a single boot the
    values are resampled, and the interval covers that boot only; it has to have five of them. None when a series is
    too short to say anything.
    """
    units = [_independent(numerators), _independent(denominators)]
    if any(len(boots) == 1 and len(boots[0]) < FEWEST_FOR_INTERVAL for boots in (numerators, denominators)):
        return None
    fewest = min(map(len, units))
    if fewest < FEWEST_FOR_INTERVAL:
        return _student_interval(*units, errors=STUDENT_T[fewest - 1]) if fewest > 1 else None
    above, below = (
        _resampled_medians(tuple(map(tuple, numerators)), 2 * seed),
        _resampled_medians(tuple(map(tuple, denominators)), 2 * seed + 1),
    )
    ratios = sorted(numerator / denominator for numerator, denominator in zip(above, below, strict=True))
    outside = int(DRAWS * (1 - CONFIDENCE) / 2)
    return Interval(low=ratios[outside], high=ratios[-1 - outside])


def _independent(boots: Boots) -> Sequence[float]:
    """Return the values that stand on their own: the medians of several boots, or the values of the only one."""
    return boots[0] if len(boots) == 1 else [statistics.median(values) for values in boots]


def _student_interval(numerators: Sequence[float], denominators: Sequence[float], *, errors: float) -> Interval:
    above, below = ([math.log(value) for value in values] for values in (numerators, denominators))
    middle = statistics.mean(above) - statistics.mean(below)
    error = math.sqrt(statistics.variance(above) / len(above) + statistics.variance(below) / len(below))
    return Interval(low=math.exp(middle - errors * error), high=math.exp(middle + errors * error))


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
def _resampled_medians(boots: tuple[tuple[float, ...], ...], seed: int) -> tuple[float, ...]:
    generator = random.Random(seed)  # noqa: S311  resampling, not a secret
    return tuple(_median_of_sorted(sorted(_resample(generator, boots))) for _ in range(DRAWS))


def _resample(generator: random.Random, boots: Boots) -> list[float]:
    """Draw boots, and from each of them values; a boot of one value needs no second draw."""
    drawn = generator.choices(boots, k=len(boots)) if len(boots) > 1 else boots
    return [value for boot in drawn for value in (generator.choices(boot, k=len(boot)) if len(boot) > 1 else boot)]


def _median_of_sorted(drawn: Sequence[float]) -> float:
    middle = len(drawn) // 2
    return drawn[middle] if len(drawn) % 2 else (drawn[middle - 1] + drawn[middle]) / 2
