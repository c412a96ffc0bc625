import random

import pytest

from nestctl.bench.stats import ratio_interval, spread


def test_spread_describes_the_values_and_an_outlier_does_not_move_it() -> None:
    described = spread([5, 1, 3, 2, 1000])
    assert (described.median, described.mad, described.count) == (3, 2, 5)
    assert (described.minimum, described.maximum) == (1, 1000)


def test_too_few_values_have_no_interval() -> None:
    assert ratio_interval([1, 2, 3, 4], [1, 2, 3, 4, 5]) is None
    assert ratio_interval([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) is not None


@pytest.mark.parametrize("count", [5, 10])
def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says(count: int) -> None:
    """Two normal series whose medians differ by 1.5, 200 times; 95 % is meant, and 88 % would be far off."""
    generator = random.Random(7)  # noqa: S311
    covered = 0
    for trial in range(200):
        slow = [generator.gauss(150, 7) for _ in range(count)]
        fast = [generator.gauss(100, 5) for _ in range(count)]
        interval = ratio_interval(slow, fast, seed=trial)
        assert interval is not None
        covered += interval.contains(1.5)
    assert covered >= 176
