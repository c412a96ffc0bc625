"""A run in other formats."""

import csv
import io
import json
import re

import pytest

from nestctl.bench.export import Format, escape_markdown, export_results, parse_format
from nestctl.bench.workloads import choose_workloads
from nestctl.errors import UsageError
from nestctl.model.samples import Call, Results, Spent
from tests.unit.bench.builders import record, results
from tests.unit.bench.test_report import LEVELS, two_levels_deep, with_control


def test_csv_has_a_row_for_every_comparison_and_for_what_was_not_measured() -> None:
    rows = list(csv.DictReader(io.StringIO(export_results(two_levels_deep().results, Format.CSV))))
    cpu = [(row["level"], row["to"], row["emulated"]) for row in rows if row["workload"] == "cpu"]
    assert cpu == [("L0", "", "False"), ("l1", "L0", "True"), ("l2", "l1", "True"), ("l2", "L0", "True")]
    inner = next(row for row in rows if (row["workload"], row["level"], row["to"]) == ("cpu", "l2", "l1"))
    assert float(inner["ratio_low"]) <= float(inner["ratio"]) <= float(inner["ratio_high"])
    assert inner["unit"] == "ns"
    assert any(row["not_measured"] for row in rows)


def test_json_has_the_figures_and_the_notes() -> None:
    document = json.loads(export_results(two_levels_deep().results, Format.JSON))
    assert document["schema"] == "nestctl.bench-summary/1"
    assert [warning.partition(" ")[0] for warning in document["warnings"]] == ["EMULATED"]
    assert document["notes"][0] == document["warnings"][0]
    assert document["notes"][1].startswith("Medians of 5 rounds")
    assert {figure["level"] for figure in document["figures"]} == {"L0", "l1", "l2"}


def with_exits_and_control() -> Results:
    """CPUID exits of which 1.5 each are counted; l2 has the control."""
    calls = []
    for visit in with_control(9080, workload="cpuid_exit").results.calls:
        (outcome,) = visit.outcomes
        (sample,) = outcome.samples
        counted = outcome.model_copy(update={"samples": (sample.model_copy(update={"exits": 1500}),)})
        calls.append(visit.model_copy(update={"outcomes": (counted,)}))
    return results(LEVELS, calls, workloads=choose_workloads(["cpuid_exit"]))


def test_what_makes_a_ratio_believable_is_in_csv_and_json() -> None:
    found = with_exits_and_control()
    rows = list(csv.DictReader(io.StringIO(export_results(found, Format.CSV))))
    figures = json.loads(export_results(found, Format.JSON))["figures"]
    assert [(row["level"], row["to"]) for row in rows] == [("L0", ""), ("l1", "L0"), ("l2", "l1"), ("l2", "L0")]
    assert [float(row["exits_per_operation"]) for row in rows] == [1.5] * 4
    assert [bool(row["noise_low"] and row["noise_high"] and row["detectable"]) for row in rows] == [False] * 2 + [
        True
    ] * 2
    for row, figure in zip(rows[2:], figures[2:], strict=True):
        assert figure["noise_low"] <= 1 <= figure["noise_high"]
        assert 0 < figure["detectable"] < 1
        for key in ("exits_per_operation", "noise_low", "noise_high", "detectable"):
            assert float(row[key]) == figure[key]
    assert "noise_low" not in figures[1]


def test_markdown_has_the_control_the_exits_and_what_others_published() -> None:
    text = export_results(with_exits_and_control(), Format.MD)
    assert "| Workload | L0 | l1 (EMULATED) | l2 (EMULATED) | A/A l2 |" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| CPUID exit")]
    assert row.startswith("| CPUID exit (published 22× on hardware) | ")
    assert row.count("1.50 exits each") == 3
    assert re.search(r"\| [\d.]+× \\\[[\d.]+–[\d.]+\] ≈; finds [\d.]+ % \|$", row)
    assert "A/A" not in export_results(two_levels_deep().results, Format.MD).splitlines()[6]


def test_json_has_where_the_time_went_where_the_run_recorded_it() -> None:
    found = two_levels_deep().results
    assert json.loads(export_results(found, Format.JSON))["spent"] == {}
    known = found.model_copy(update={"spent": Spent(whole_ns=10**12, opening_ns=10**9)})
    assert json.loads(export_results(known, Format.JSON))["spent"]["opening_s"] == 1


def test_markdown_labels_emulated_levels_and_a_guest_cannot_write_markup() -> None:
    evil = "a|b\n<b>`x`"
    failed = Call(level="l1", round=1, host_begin_ns=0, host_end_ns=1, failure=evil)
    text = export_results(results(LEVELS, [failed]), Format.MD)
    assert "| Workload | L0 | l1 (EMULATED) | l2 (EMULATED) |" in text
    assert evil not in text
    assert escape_markdown(evil) == r"a\|b \<b>\`x\`"


def test_html_is_the_report() -> None:
    assert export_results(results([record("L0")], []), Format.HTML).startswith("<!doctype html>")


def test_a_format_there_is_not_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no format 'xls'"):
        parse_format("xls")
