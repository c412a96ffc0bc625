"""A run in other formats."""

import csv
import io
import json

import pytest

from nestctl.bench.export import Format, escape_markdown, export_results, parse_format
from nestctl.errors import UsageError
from nestctl.model.samples import Call
from tests.unit.bench.builders import record, results
from tests.unit.bench.test_report import LEVELS, two_levels_deep


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
    assert any("EMULATED" in note for note in document["notes"])
    assert {figure["level"] for figure in document["figures"]} == {"L0", "l1", "l2"}


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
