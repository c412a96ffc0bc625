"""A summary in other formats: JSON of the computed figures, CSV for spreadsheets, Markdown for an issue or a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

from nestctl.bench.report import EMULATED, Cell, describe_levels, describe_lines, describe_notes
from nestctl.bench.summary import Figure, Summary
from nestctl.errors import UsageError
from nestctl.model.samples import Results

SUMMARY_SCHEMA = "nestctl.bench-summary/1"
COLUMNS = (
    "workload",
    "level",
    "depth",
    "emulated",
    "unit",
    "better",
    "median",
    "mad",
    "minimum",
    "maximum",
    "values",
    "to",
    "ratio",
    "ratio_low",
    "ratio_high",
    "not_measured",
)


class Format(StrEnum):
    CSV = "csv"
    MD = "md"
    HTML = "html"
    JSON = "json"


def parse_format(text: str) -> Format:
    """Read the name of a format. Raises `UsageError` that lists them."""
    try:
        return Format(text)
    except ValueError:
        names = ", ".join(Format)
        raise UsageError(f"There is no format '{text}'.", hint=f"Choose from {names}.") from None


def export_results(results: Results, kind: Format) -> str:
    """Render a run as one document. Raises `PrerequisiteError` for HTML when matplotlib is not installed."""
    from nestctl.bench.html import render_report
    from nestctl.bench.summary import summarize

    renderers: dict[Format, Callable[[Summary], str]] = {
        Format.CSV: render_csv,
        Format.MD: render_markdown,
        Format.HTML: render_report,
        Format.JSON: _render_json,
    }
    return renderers[kind](summarize(results))


def render_csv(summary: Summary) -> str:
    """One row per workload, level and level it is compared with; a figure without comparison has one row."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in summary.rows:
        for figure in row.figures:
            for record in _records(figure):
                writer.writerow({name: record.get(name, "") for name in COLUMNS})
    return buffer.getvalue()


def render_summary(summary: Summary) -> dict[str, Any]:
    """Make the document of the computed figures: the raw samples stay in the result file."""
    return {
        "schema": SUMMARY_SCHEMA,
        "created": summary.results.created,
        "title": summary.results.title,
        "ending": summary.results.ending.value,
        "notes": list(describe_notes(summary)),
        "figures": [record for row in summary.rows for figure in row.figures for record in _records(figure)],
    }


def _render_json(summary: Summary) -> str:
    import json

    return json.dumps(render_summary(summary), indent=2, ensure_ascii=False) + "\n"


def _records(figure: Figure) -> Iterator[dict[str, Any]]:
    record: dict[str, Any] = {
        "workload": figure.workload.name,
        "level": figure.level.name,
        "depth": figure.level.depth,
        "emulated": figure.level.is_emulated,
        "unit": figure.workload.unit,
        "better": figure.workload.better.value,
        "not_measured": figure.not_measured,
    }
    if figure.spread:
        described = figure.spread
        record |= {"median": described.median, "mad": described.mad, "values": described.count}
        record |= {"minimum": described.minimum, "maximum": described.maximum}
    if not figure.ratios:
        yield record
    for ratio in figure.ratios:
        ends = {"ratio_low": ratio.interval.low, "ratio_high": ratio.interval.high} if ratio.interval else {}
        yield {**record, "to": ratio.to, "ratio": ratio.value, **ends}


def render_markdown(summary: Summary) -> str:
    """Write a table with the notes below it; what a guest said cannot become markup of its own."""
    levels = describe_levels(summary)
    heads = ["Workload", *(f"{head.name}{f' ({EMULATED})' if head.is_emulated else ''}" for head in levels)]
    rows = [[line.title, *(_cell(cell) for cell in line.cells)] for line in describe_lines(summary)]
    table = [heads, ["---"] * len(heads), *rows]
    title = f"# What nesting costs: {summary.results.title}".removesuffix(": ")
    lines = [title, "", f"Measured {summary.results.created} by nestctl {summary.results.nestctl_version}.", ""]
    lines += ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in table]
    lines += ["", *(f"- {escape_markdown(note)}" for note in describe_notes(summary))]
    return "\n".join(lines) + "\n"


def _cell(cell: Cell) -> str:
    return "; ".join([cell.figure, *cell.ratios]) if cell.figure else f"not measured: {cell.not_measured}"


def escape_markdown(text: str) -> str:
    escaped = text.replace("\\", "\\\\")
    for character in "|<`*_[":
        escaped = escaped.replace(character, f"\\{character}")
    return " ".join(escaped.split())
