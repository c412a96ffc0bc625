"""The figures as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestctl.bench.notes import describe_notes, describe_run
from nestctl.bench.report import EMULATED, Cell, Head, Line, control_level, describe_levels, describe_lines
from nestctl.bench.summary import Summary

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def render_table(summary: Summary) -> Group:
    """Make a table of workloads by levels: above it what nobody may miss, below it what explains it."""
    from rich.console import Group
    from rich.text import Text

    lines, notes = describe_lines(summary), describe_notes(summary)
    above = [f"What nesting costs: {summary.results.title}".removesuffix(": "), describe_run(summary), *notes.warnings]
    below = [*notes.below, *_explain(lines)]
    return Group(*map(Text, above), _table(summary, lines), *map(Text, below))


def _table(summary: Summary, lines: tuple[Line, ...]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_lines=True)
    table.add_column("Workload")
    for head in describe_levels(summary):
        table.add_column(Text(_head(head)))
    control = control_level(summary)
    if control:
        table.add_column(Text(f"A/A\n{control}"))
    for line in lines:
        noise = [Text(f"{line.noise}\n{line.finds}".strip())] if control else []
        table.add_row(
            Text(f"{line.title}\n{line.published_short}".strip()), *(Text(_cell(cell)) for cell in line.cells), *noise
        )
    return table


def _head(head: Head) -> str:
    return "\n".join([head.name, head.place, *([EMULATED] if head.is_emulated else [])])


def _cell(cell: Cell) -> str:
    return "\n".join([cell.figure, *cell.ratios, *filter(None, [cell.exits])]) if cell.figure else "not measured"


def _explain(lines: tuple[Line, ...]) -> list[str]:
    """Say each reason and remark once, with all it holds for."""
    reasons: dict[str, list[str]] = {}
    for line in lines:
        for cell in line.cells:
            if cell.not_measured:
                reasons.setdefault(cell.not_measured, []).append(f"{line.title} on {cell.level}")
    remarks = [f"{line.title} on {remark}." for line in lines for remark in line.remarks]
    missing = [f"Not measured: {', '.join(where)}: {reason.removesuffix('.')}." for reason, where in reasons.items()]
    published = [f"Published for {line.title}, on hardware: {line.published}" for line in lines if line.published]
    return missing + remarks + published
