import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from nestctl.bench.compare import compare_runs
from nestctl.bench.export import Format, export_results
from nestctl.bench.summary import summarize
from nestctl.bench.table import render_table
from nestctl.bench.workloads import choose_workloads
from nestctl.errors import FailedError, UsageError
from nestctl.model.samples import Better, parse_measurement, parse_results, render_results
from tests.unit.bench.builders import call, record, results


def test_an_unknown_schema_is_named_with_the_one_that_is_read() -> None:
    text = render_results(results([record("L0")], [])).replace("nestctl.bench/2", "nestctl.bench/99")
    with pytest.raises(UsageError, match=r"'nestctl\.bench/99', and this nestctl reads 'nestctl\.bench/2' and older"):
        parse_results(text, source="old.json")


def test_the_place_of_a_mistake_is_named() -> None:
    document = json.loads(render_results(results([record("L0")], [call("L0", 1, "cpu", 5000)])))
    document["calls"][0]["outcomes"][0]["samples"][0]["elapsed_ns"] = 0
    with pytest.raises(UsageError, match=r"calls\.0\.outcomes\.0\.samples\.0\.elapsed_ns"):
        parse_results(json.dumps(document), source="x.json")


@pytest.mark.parametrize(
    ("place", "value"), [("surprise", 1), ("levels", []), ("ending", "whatever"), ("nestctl_version", 3)]
)
def test_what_does_not_fit_is_refused(place: str, value: object) -> None:
    document = json.loads(render_results(results([record("L0")], [call("L0", 1, "cpu", 5000)])))
    with pytest.raises(UsageError):
        parse_results(json.dumps({**document, place: value}), source="x.json")


@pytest.mark.parametrize("key", ["operations", "elapsed_ns", "begin_ns", "end_ns", "exits", "waited_ns", "stolen_ns"])
@pytest.mark.parametrize("digits", [str(2**63), "1" + 340 * "0", "-1" + 340 * "0", "1" + 5000 * "0"], ids=len)
def test_a_number_of_a_sample_that_no_machine_counts_to_is_refused(key: str, digits: str) -> None:
    text = render_results(results([record("L0")], [call("L0", 1, "cpu", 5000)], workloads=choose_workloads(["cpu"])))
    text = re.sub(rf'"{key}": *(\d+|null)', f'"{key}": {digits}', text)
    assert digits in text
    with pytest.raises(UsageError):
        parse_results(text, source="x.json")


@pytest.mark.parametrize("scale", [0, 1e-300, 1e19, 1e308])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    document = json.loads(render_results(results([record("L0")], [], workloads=choose_workloads(["cpu"]))))
    document["workloads"][0]["scale"] = scale
    with pytest.raises(UsageError, match="scale"):
        parse_results(json.dumps(document), source="x.json")


@pytest.mark.parametrize("better", Better)
@pytest.mark.parametrize("scale", [1e-18, 1e18])
@pytest.mark.parametrize(("operations", "elapsed_ns"), [(1, 2**62), (2**62, 1)])
def test_the_largest_and_the_smallest_that_is_read_can_be_shown_exported_and_compared(
    better: Better, scale: float, operations: int, elapsed_ns: int
) -> None:
    (workload,) = choose_workloads(["cpu"])
    workload = workload.model_copy(update={"scale": scale, "better": better})
    levels = [record("L0"), record("l1", "L0", depth=1)]
    far = [call("l1", number, "cpu", elapsed_ns, operations=operations) for number in range(1, 6)]
    near = [call("L0", number, "cpu", operations, operations=elapsed_ns) for number in range(1, 6)]
    text = render_results(results(levels, [*far, *near], workloads=[workload]))
    read = parse_results(text, source="x.json")
    summary = summarize(read)
    Console(file=io.StringIO()).print(render_table(summary))
    assert all(export_results(read, kind) for kind in Format)
    assert compare_runs(summary, summary, threshold=0.05).changes


def test_two_levels_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="name of its own"):
        results([record("L0"), record("L0")], [])


def test_an_agent_that_says_something_else_is_a_failure_of_that_machine() -> None:
    with pytest.raises(FailedError, match=r"l1.*begin_ns"):
        parse_measurement({"schema": "nestctl.measure/1"}, where="l1")


def test_a_file_of_the_first_schema_is_read_as_it_stands() -> None:
    """Written by nestctl 0.1 in a run of one round (the fingerprints are shortened)."""
    old = (Path(__file__).parent / "recorded" / "bench-1.json").read_bytes()
    assert json.loads(old)["schema"] == "nestctl.bench/1"
    read = parse_results(old, source="bench-1.json")
    assert not any(call.is_control for call in read.calls)
    summary = summarize(read)
    assert summary.rows[0].figures[1].ratios
    assert summary.rows[0].control is None
    assert json.loads(render_results(read))["schema"] == "nestctl.bench/2"
