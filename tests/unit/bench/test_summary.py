import pytest

from nestctl.bench.summary import check_clock, summarize
from nestctl.bench.workloads import choose_workloads
from nestctl.model.samples import Call, Sample
from tests.unit.bench.builders import SECOND_NS, call, record, results

CPU = choose_workloads(["cpu"])
COPY = choose_workloads(["memory_bandwidth"])


def test_a_level_is_compared_with_the_one_above_and_with_the_top_of_its_own_branch() -> None:
    levels = [record("L0"), record("l1", "L0"), record("l2", "l1"), record("l3", "l2"), record("other", "L0")]
    calls = [call(level.name, n, "cpu", 1000 * 2**depth) for n in (1, 2, 3) for depth, level in enumerate(levels)]
    (row,) = summarize(results(levels, calls, workloads=CPU)).rows
    found = {figure.level.name: [(ratio.to, ratio.value) for ratio in figure.ratios] for figure in row.figures}
    assert found == {
        "L0": [],
        "l1": [("L0", 2)],
        "l2": [("l1", 2), ("L0", 4)],
        "l3": [("l2", 2), ("L0", 8)],
        "other": [("L0", 16)],
    }


def test_more_of_what_is_better_is_cheaper() -> None:
    levels = [record("L0"), record("l1", "L0")]
    calls = [call(name, n, "memory_bandwidth", ns) for n in (1, 2, 3) for name, ns in (("L0", 1000), ("l1", 4000))]
    (row,) = summarize(results(levels, calls, workloads=COPY)).rows
    assert [figure.values[0] for figure in row.figures] == pytest.approx([64e9 / 2**30, 16e9 / 2**30])
    assert row.figures[1].ratios[0].value == pytest.approx(4.0)


def test_what_differs_between_boots_is_in_the_interval() -> None:
    """The second boot of l1 costs half as much again; its rounds hardly differ. Of one boot that would look certain."""
    levels = [record("L0"), record("l1", "L0")]
    calls = []
    for boot, l1_ns in ((1, 2000), (2, 3000)):
        for number in range(5 * boot - 4, 5 * boot + 1):
            for name, cost_ns in (("L0", 1000), ("l1", l1_ns)):
                calls.append(call(name, number, "cpu", cost_ns + number).model_copy(update={"boot": boot}))
    (row,) = summarize(results(levels, calls, workloads=CPU)).rows
    l1 = row.figures[1]
    assert [len(values) for values in l1.boots] == [5, 5]
    assert l1.values == tuple(value for values in l1.boots for value in values)
    assert l1.ratios[0].interval is not None
    assert l1.ratios[0].interval.half_width > 2


def test_a_round_counts_once_however_many_samples_it_has() -> None:
    first = call("L0", 1, "cpu", 1000)
    more = tuple(Sample(operations=1000, elapsed_ns=ns, begin_ns=0, end_ns=ns) for ns in (7000, 8000, 9000))
    second = first.model_copy(update={"outcomes": (first.outcomes[0].model_copy(update={"samples": more}),)})
    (row,) = summarize(results([record("L0")], [first, second], workloads=CPU)).rows
    assert row.figures[0].values == (1.0, 8.0)
    assert len(row.figures[0].points) == 4


def clocked(number: int, rate: float, delay_ns: int = 0) -> Call:
    at_ns = number * 20 * SECOND_NS
    return Call(
        level="l1",
        round=number,
        host_begin_ns=at_ns,
        host_end_ns=at_ns + 5 * SECOND_NS,
        level_begin_ns=round((at_ns + delay_ns) * rate),
        level_end_ns=round((at_ns + 4 * SECOND_NS) * rate),
    )


@pytest.mark.parametrize(("rate", "is_wrong"), [(1.0, False), (1.02, False), (0.9, True), (1.08, True)])
def test_a_clock_that_goes_wrong_is_found(rate: float, is_wrong: bool) -> None:
    check = check_clock("l1", [clocked(1, rate), clocked(2, rate), clocked(3, rate)])
    assert check.drift == pytest.approx(rate - 1)
    assert check.is_wrong is is_wrong


def test_a_slow_start_of_one_call_is_no_drift() -> None:
    assert not check_clock("l1", [clocked(1, 1.0), clocked(2, 1.0, delay_ns=3 * SECOND_NS)]).is_wrong


def test_one_call_cannot_show_a_drift() -> None:
    assert check_clock("l1", [clocked(1, 1.0)]).drift is None


def test_calls_that_took_longer_than_what_lies_between_them_say_nothing_of_a_clock() -> None:
    def slow(number: int, *, end_ns: int) -> Call:
        """A call of which the level knows a tenth of a second; the rest is beginning and ending."""
        at_ns = number * 4 * SECOND_NS
        stamps = {"host_begin_ns": at_ns, "host_end_ns": at_ns + 3 * SECOND_NS}
        return clocked(number, 1.0).model_copy(
            update={**stamps, "level_begin_ns": end_ns - SECOND_NS // 10, "level_end_ns": end_ns}
        )

    early, late = slow(1, end_ns=5 * SECOND_NS), slow(2, end_ns=11 * SECOND_NS)
    check = check_clock("l1", [early, late])
    assert check.drift is None
    assert not check.is_wrong
    assert not check_clock("l1", []).is_wrong
