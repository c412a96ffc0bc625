import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestctl.bench.stats import ratio_interval, spread
from nestctl.errors import UsageError
from nestctl.model.samples import (
    SCHEMA,
    Better,
    Call,
    Ending,
    LevelRecord,
    Outcome,
    Results,
    Sample,
    Settings,
    Workload,
    parse_results,
    render_results,
)

values = st.lists(st.floats(min_value=1e-3, max_value=1e9), min_size=5, max_size=12)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
stamps = st.integers(min_value=0, max_value=2**63 - 1)
samples = st.builds(Sample, operations=st.integers(1, 2**40), elapsed_ns=st.integers(1, 2**50), begin_ns=stamps)


@st.composite
def all_results(draw: st.DrawFn) -> Results:
    levels = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    workloads = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    outcomes = st.one_of(
        st.builds(Outcome, workload=st.sampled_from(workloads), not_measured=texts.filter(bool)),
        st.builds(Outcome, workload=st.sampled_from(workloads), samples=st.tuples(samples, samples), remark=texts),
    )
    call = st.builds(
        Call,
        level=st.sampled_from(levels),
        round=st.integers(1, 9),
        host_begin_ns=stamps,
        host_end_ns=stamps,
        outcomes=st.lists(outcomes, max_size=3).map(tuple),
        failure=texts,
    )
    return Results(
        nestctl_version=draw(texts),
        created="2025-01-02T03:04:05+00:00",
        title=draw(texts),
        ending=draw(st.sampled_from(Ending)),
        settings=Settings(seed=draw(st.integers(0, 2**32))),
        workloads=tuple(
            Workload(name=name, title=draw(texts), unit="ns", better=draw(st.sampled_from(Better)), scale=0.1)
            for name in workloads
        ),
        levels=tuple(
            LevelRecord(name=name, depth=number, above=None, is_emulated=draw(st.booleans()), accelerator="kvm")
            for number, name in enumerate(levels)
        ),
        calls=tuple(draw(st.lists(call, max_size=4))),
    )


@settings(max_examples=50)
@given(all_results())
def test_results_survive_their_rendering(results: Results) -> None:
    assert parse_results(render_results(results), source="x") == results


@given(st.one_of(texts, st.binary(max_size=50), texts.map(lambda text: f'{{"schema": "{SCHEMA}", "x": "{text}"}}')))
def test_anything_else_is_refused_with_a_usage_error(text: str | bytes) -> None:
    with pytest.raises(UsageError, match=r"results\.json"):
        parse_results(text, source="results.json")


@settings(max_examples=25, deadline=None)
@given(values)
def test_a_series_is_once_as_dear_as_itself(series: list[float]) -> None:
    interval = ratio_interval([series], [series])
    assert interval is not None
    assert interval.contains(1.0)


@settings(max_examples=25, deadline=None)
@given(values, values, st.sampled_from([0.25, 2.0, 1024.0]))
def test_the_ratio_does_not_know_the_unit(slow: list[float], fast: list[float], factor: float) -> None:
    scaled = ratio_interval([[value * factor for value in slow]], [[value * factor for value in fast]])
    assert scaled == ratio_interval([slow], [fast])


@given(values)
def test_the_median_lies_between_the_extremes(series: list[float]) -> None:
    described = spread(series)
    assert described.minimum <= described.median <= described.maximum
    assert 0 <= described.mad <= described.maximum - described.minimum
