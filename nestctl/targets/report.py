"""What the check of several machines prints: one line each, or one document with one item each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nestctl.check.findings import Assessment, Question, Verdict
from nestctl.check.report import TITLES, render_json
from nestctl.errors import ExitCode
from nestctl.targets.check import Outcome, worst_of

if TYPE_CHECKING:
    from rich.console import RenderableType

LIST_SCHEMA = "nestctl.check-list/1"

# Where a machine is, is told by a name and not by yes or no.
_COLUMNS = tuple(question for question in Question if question is not Question.WHERE)

_COLOURS = {Verdict.YES: "green", Verdict.NO: "red", Verdict.UNKNOWN: "magenta"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the table keeps of an outcome: nothing of the facts."""

    name: str
    exit_code: ExitCode
    elapsed_s: float
    verdict: Verdict
    where: str
    answers: tuple[Verdict, ...]
    why: str
    hint: str = ""


def make_row(outcome: Outcome) -> Row:
    """Reduce an outcome to its line; the facts, some hundred KiB for each machine, can go then."""
    if outcome.report is None:
        return Row(
            name=outcome.target.name,
            exit_code=outcome.exit_code,
            elapsed_s=outcome.elapsed_s,
            verdict=Verdict.UNKNOWN,
            where="",
            answers=(),
            why=outcome.error.message.removeprefix(f"'{outcome.target.name}' ") if outcome.error else "",
            hint=outcome.error.hint if outcome.error else "",
        )
    assessment = outcome.report.assessment
    return Row(
        name=outcome.target.name,
        exit_code=outcome.exit_code,
        elapsed_s=outcome.elapsed_s,
        verdict=assessment.verdict,
        where=assessment.where_am_i.reason,
        answers=tuple(assessment.answers[question].verdict for question in _COLUMNS),
        why=_obstacle(assessment),
    )


def _obstacle(assessment: Assessment) -> str:
    """Return the reason that decides, of the first answer that is as bad as the verdict; nothing hinders a yes."""
    if assessment.verdict is Verdict.YES:
        return ""
    return next((answer.reason for answer in assessment.decisive if answer.verdict is assessment.verdict), "")


def render_rows(rows: Sequence[Row]) -> RenderableType:
    """Render a table of short answers, one line a target, and below it why they are not better."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("target", "nests", *(TITLES[question].replace(" ", "\n", 1) for question in _COLUMNS)):
        table.add_column(title, no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("where", overflow="fold")
    # Text, not str: what a machine said must not be read as Rich's markup.
    for row in rows:
        cells = [row.verdict, *(row.answers or ["-"] * len(_COLUMNS))]
        table.add_row(
            Text(row.name),
            *(Text(cell, style=_COLOURS[cell] if isinstance(cell, Verdict) else "dim") for cell in cells),
            f"{row.elapsed_s:.1f} s",
            Text(row.where or "-", style="dim"),
        )
    reasons = Table(box=None, pad_edge=False, show_header=False)
    reasons.add_column(no_wrap=True)
    reasons.add_column(overflow="fold")
    for row in rows:
        if row.why:
            reasons.add_row(Text(row.name), Text(row.why))
        if row.hint:
            reasons.add_row("", Text(row.hint, style="bold"))
    return Group(table, "", reasons) if reasons.rows else table


def render_count(rows: Sequence[Row]) -> str:
    """Say in a line how many machines gave which answer."""
    counts = Counter(row.verdict for row in rows)
    unreached = sum(not row.answers for row in rows)
    parts = [f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict]]
    return f"{len(rows)} targets: {', '.join(parts)}" + (f" ({unreached} without an answer)" if unreached else "")


def render_documents(outcomes: Iterable[Outcome], exit_codes: list[ExitCode]) -> Iterator[str]:
    """Yield the JSON document piece by piece, and note the exit codes: the facts of many machines are never together.

    Its keys only change with the number in `schema`.
    """
    yield f'{{\n  "schema": "{LIST_SCHEMA}",\n  "targets": ['
    separator = ""
    for outcome in outcomes:
        exit_codes.append(outcome.exit_code)
        text = json.dumps(_render_item(outcome), indent=2, ensure_ascii=False)
        yield f"{separator}\n    " + text.replace("\n", "\n    ")
        separator = ","
    yield f'\n  ],\n  "exit_code": {int(worst_of(exit_codes))}\n}}\n'


def _render_item(outcome: Outcome) -> dict[str, Any]:
    error = outcome.error
    return {
        "target": outcome.target.name,
        "exit_code": int(outcome.exit_code),
        "elapsed_s": round(outcome.elapsed_s, 3),
        "error": {"message": error.message, "hint": error.hint} if error else None,
        "report": render_json(outcome.report) if outcome.report else None,
    }
