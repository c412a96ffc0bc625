"""A summary in other formats: JSON of the computed figures, CSV for spreadsheets, Markdown for an issue or a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

from nestctl.bench.costs import list_parts
from nestctl.bench.notes import describe_notes, describe_run
from nestctl.bench.report import EMULATED, Cell, Line, control_level, describe_levels, describe_lines
from nestctl.bench.summary import Figure, Ratio, Row, Summary
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
    "exits_per_operation",
    "noise_low",
    "noise_high",
    "detectable",
)


class Format(StrEnum):
    """What `bench export` writes, by the name that its option takes."""

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
            for record in _records(figure, row):
                writer.writerow({name: record.get(name, "") for name in COLUMNS})
    return buffer.getvalue()


def render_summary(summary: Summary) -> dict[str, Any]:
    """Make the document of the computed figures: the raw samples stay in the result file."""
    notes = describe_notes(summary)
    return {
        "schema": SUMMARY_SCHEMA,
        "created": summary.results.created,
        "title": summary.results.title,
        "ending": summary.results.ending.value,
        "warnings": list(notes.warnings),
        "notes": [*notes.warnings, *notes.below],
        "spent": {part.key: part.seconds for part in list_parts(summary.results)},
        "figures": [record for row in summary.rows for figure in row.figures for record in _records(figure, row)],
    }


def _render_json(summary: Summary) -> str:
    import json

    return json.dumps(render_summary(summary), indent=2, ensure_ascii=False) + "\n"


def _records(figure: Figure, row: Row) -> Iterator[dict[str, Any]]:
    """Make a record for each ratio; the noise is that of the A/A control, in the ratios of its level."""
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
    if figure.exits_per_operation is not None:
        record["exits_per_operation"] = figure.exits_per_operation
    if not figure.ratios:
        yield record
    for ratio in figure.ratios:
        yield {**record, "to": ratio.to, "ratio": ratio.value, **_certainty(ratio, row)}


def _certainty(ratio: Ratio, row: Row) -> dict[str, float]:
    found: dict[str, float] = {}
    if ratio.interval:
        found |= {"ratio_low": ratio.interval.low, "ratio_high": ratio.interval.high}
    if ratio.noise:
        found |= {"noise_low": ratio.noise.low, "noise_high": ratio.noise.high}
        found |= {"detectable": row.detectable} if row.detectable is not None else {}
    return found


def render_markdown(summary: Summary) -> str:
    """Write a table, above it what nobody may miss and below it the rest; what a guest said becomes no markup."""
    notes = describe_notes(summary)
    levels = describe_levels(summary)
    heads = ["Workload", *(f"{head.name}{f' ({EMULATED})' if head.is_emulated else ''}" for head in levels)]
    control = control_level(summary)
    heads += [f"A/A {control}"] if control else []
    rows = [_row(line, has_control=bool(control)) for line in describe_lines(summary)]
    table = [heads, ["---"] * len(heads), *rows]
    title = f"# What nesting costs: {summary.results.title}".removesuffix(": ")
    lines = [title, "", escape_markdown(describe_run(summary)), ""]
    lines += [line for warning in notes.warnings for line in (f"**{escape_markdown(warning)}**", "")]
    lines += ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in table]
    for heading, texts in notes.sections:
        lines += ["", f"## {heading}", "", *(f"- {escape_markdown(text)}" for text in texts)]
    return "\n".join(lines) + "\n"


def _row(line: Line, *, has_control: bool) -> list[str]:
    title = f"{line.title} ({line.published_short})" if line.published_short else line.title
    noise = ["; ".join(filter(None, [line.noise, line.finds]))] if has_control else []
    return [title, *(_cell(cell) for cell in line.cells), *noise]


def _cell(cell: Cell) -> str:
    if not cell.figure:
        return f"not measured: {cell.not_measured}"
    return "; ".join([cell.figure, *cell.ratios, *filter(None, [cell.exits])])


def escape_markdown(text: str) -> str:
    """Write text in one line such that Markdown shows it as it is, in a cell of a table too."""
    escaped = text.replace("\\", "\\\\")
    for character in "|<`*_[":
        escaped = escaped.replace(character, f"\\{character}")
    return " ".join(escaped.split())
