import math
import random
from collections.abc import Callable, Iterator

import pytest

from nestctl.bench import stats
from nestctl.bench.stats import Interval, detectable_effect, is_outlier, ratio_interval, spread


def test_spread_describes_the_values_and_an_outlier_does_not_move_it() -> None:
    described = spread([5, 1, 3, 2, 1000])
    assert (described.median, described.mad, described.count) == (3, 2, 5)
    assert (described.minimum, described.maximum) == (1, 1000)


def test_too_few_values_of_one_boot_or_of_one_boot_each_have_no_interval() -> None:
    assert ratio_interval([[1, 2, 3, 4]], [[1, 2, 3, 4, 5]]) is None
    assert ratio_interval([[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 5]]) is not None


def test_values_of_several_boots_are_told_from_as_many_of_one() -> None:
    """Two boots that differ by 10 %, and in each five values that hardly do: ten equal values would look certain."""
    boots = [[100, 101, 100, 101, 100], [110, 111, 110, 111, 110]]
    one, two = ratio_interval([[*boots[0], *boots[1]]], [[100] * 5]), ratio_interval(boots, [[100] * 5, [100] * 5])
    assert one is not None
    assert two is not None
    assert one.half_width < 0.06
    assert two.half_width > 0.5
    three = ratio_interval([*boots, boots[0]], [[100] * 5] * 3)
    assert three is not None
    assert three.half_width < two.half_width
    assert ratio_interval([[100], [110]], [[100, 101]]) is None


Draw = Callable[[random.Random], float]

# What series look like: even noise, noise in proportion, and a machine on which something else runs now and then.
NOISES: dict[str, Draw] = {
    "normal": lambda generator: generator.gauss(100, 5),
    "lognormal": lambda generator: math.exp(generator.gauss(4.6, 0.3)),
    "disturbed": lambda generator: 100 + generator.expovariate(0.3 if generator.random() < 0.8 else 0.02),
}
PAIRS = 400


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of intervals: a quarter of the draws moves their ends by little."""
    monkeypatch.setattr(stats, "DRAWS", 1000)


def intervals(draw: Draw, count: int, factor: float = 1.0, pairs: int = PAIRS) -> Iterator[Interval]:
    """Draw pairs of series whose true medians differ by `factor`, and return the interval of each."""
    generator = random.Random(7)  # noqa: S311
    for trial in range(pairs):
        first = [factor * draw(generator) for _ in range(count)]
        second = [draw(generator) for _ in range(count)]
        interval = ratio_interval([first], [second], seed=trial)
        assert interval is not None
        yield interval


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("count", [5, 10])
@pytest.mark.parametrize("noise", NOISES)
def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says(noise: str, count: int) -> None:
    """95 % of 400 are 380; with a true 95 % fewer than 368 would come once in 300 such tests."""
    assert sum(interval.contains(1.5) for interval in intervals(NOISES[noise], count, 1.5)) >= 368


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("noise", NOISES)
def test_twenty_pairs_of_equal_series_differ_at_most_as_often_as_stated(noise: str) -> None:
    assert sum(not interval.contains(1.0) for interval in intervals(NOISES[noise], 5, pairs=20)) <= 1


def boots_of(generator: random.Random, boots: int, rounds: int, *, between: float, within: float) -> list[list[float]]:
    """Draw a series whose boots differ: `between` and `within` are deviations, 0.05 is 5 %."""
    effects = [generator.gauss(4.6, between) for _ in range(boots)]
    return [[math.exp(effect + generator.gauss(0, within)) for _ in range(rounds)] for effect in effects]


def differing(boots: int, rounds: int, *, between: float = 0.05, within: float = 0.01) -> int:
    """Count the pairs of equal series that are called different."""
    generator = random.Random(3)  # noqa: S311
    found = 0
    for trial in range(PAIRS):
        first, second = (boots_of(generator, boots, rounds, between=between, within=within) for _ in range(2))
        interval = ratio_interval(first, second, seed=trial)
        assert interval is not None
        found += not interval.contains(1.0)
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize(("boots", "rounds"), [(2, 5), (3, 5), (4, 2), (5, 1), (5, 4), (10, 3)])
@pytest.mark.parametrize(("between", "within"), [(0.05, 0.01), (0.01, 0.05)])
def test_equal_series_whose_boots_differ_are_seldom_called_different(
    boots: int, rounds: int, between: float, within: float
) -> None:
    """5 % of 400 are 20; with a true 5 % more than 32 would come once in 300 such tests."""
    assert differing(boots, rounds, between=between, within=within) <= 32


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
def test_an_interval_beyond_a_threshold_is_far_rarer_than_a_ratio_beyond_it() -> None:
    """Why a regression needs the whole interval: a run has seventy figures, and one false one is a false exit code."""
    generator = random.Random(11)  # noqa: S311
    whole, ratio = 0, 0
    for trial in range(2 * PAIRS):
        first, second = (boots_of(generator, 5, 1, between=0.05, within=0.01) for _ in range(2))
        interval = ratio_interval(first, second, seed=trial)
        assert interval is not None
        medians = [spread([value for boot in series for value in boot]).median for series in (first, second)]
        whole += interval.low > 1.05
        ratio += interval.low > 1 and medians[0] / medians[1] > 1.05
    assert whole <= 2
    assert ratio >= 4


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
def test_one_boot_says_nothing_of_another() -> None:
    """Why runs of one boot each are not compared: four of five equal pairs look different."""
    assert differing(1, 5) > 0.7 * PAIRS


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
def test_three_values_would_call_equal_series_different_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "FEWEST_FOR_INTERVAL", 3)
    assert sum(not interval.contains(1.0) for interval in intervals(NOISES["normal"], 3)) >= 0.08 * PAIRS


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
def test_the_detectable_effect_is_found_about_four_times_in_five() -> None:
    """Of twenty values each: with the median of what equal series say, the power must be near 80 %."""
    draw = NOISES["normal"]
    effects = sorted(detectable_effect(interval) for interval in intervals(draw, 20, pairs=60))
    effect = effects[30]
    found = sum(not interval.contains(1.0) for interval in intervals(draw, 20, 1 + effect, pairs=200))
    assert 0.7 <= found / 200 <= 0.95


def test_half_width_and_inverse_are_of_ratios() -> None:
    assert Interval(low=0.8, high=1.25).half_width == pytest.approx(0.25)
    assert Interval(low=0.9, high=1.05).with_inverse() == Interval(low=0.9, high=1 / 0.9)
    assert Interval(low=1.1, high=1.2).with_inverse() == Interval(low=1 / 1.2, high=1.2)


def test_an_outlier_is_far_from_the_others_and_equal_values_have_none() -> None:
    described = spread([100, 101, 102, 103, 500])
    assert [is_outlier(value, described) for value in (100, 103, 500)] == [False, False, True]
    assert not is_outlier(7, spread([5, 5, 5, 7]))
