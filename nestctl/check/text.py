"""The findings as lines of text, below the question they answer.

They are laid out here and not by Rich: to load that takes longer than to look at the machine.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from nestctl.check.findings import Assessment, Finding, Status
from nestctl.check.report import TITLES, render_verdict

WIDE = 110  # columns from which on evidence has room beside what it is evidence of
INDENT = 4
GAP = 2

# SGR parameters of ECMA-48, 8.3.117.
BOLD, DIM = "1", "2"
COLOURS = {Status.PASS: "32", Status.INFO: "34", Status.WARN: "33", Status.FAIL: "31", Status.UNKNOWN: "35"}

# A cell's text and how it looks.
Cell = tuple[str, str]


def render_findings(assessment: Assessment, *, width: int, is_coloured: bool = False) -> str:
    """Return the findings in lines of at most `width` columns; where it is narrow, evidence stands below."""
    blocks = []
    for question, answer in assessment.answers.items():
        if findings := assessment.findings_of(question):
            verdict = render_verdict(question, answer, "")
            head = _paint(TITLES[question], BOLD, is_coloured) + (f": {verdict}" if verdict else "")
            blocks.append("\n".join([head, *_lines(findings, _widths(assessment, width), is_coloured)]))
    return "\n\n".join(blocks)


def _widths(assessment: Assessment, width: int) -> tuple[int, ...]:
    """Return the widths of the columns: name, status, text, and evidence where there is room for it."""
    name = max((len(finding.name) for finding in assessment.findings), default=0)
    status = max(map(len, Status))
    rest = max(width - INDENT - name - status - 2 * GAP, 20)
    if width < WIDE:
        return name, status, rest
    text = (rest - GAP) * 5 // 9
    return name, status, text, rest - GAP - text


def _lines(findings: tuple[Finding, ...], widths: tuple[int, ...], is_coloured: bool) -> Iterator[str]:
    for finding in findings:
        evidence = (finding.evidence, DIM)
        first = ((finding.name, ""), (finding.status, COLOURS[finding.status]), (finding.summary, ""))
        if len(widths) == 4:
            yield from _fold((*first, evidence), widths, is_coloured)
        else:
            yield from _fold(first, widths, is_coloured)
            yield from _fold((("", ""), ("", ""), evidence), widths, is_coloured)
        if finding.fix:
            yield from _fold((("", ""), ("fix", BOLD), (finding.fix, BOLD)), widths, is_coloured)


def _fold(cells: tuple[Cell, ...], widths: tuple[int, ...], is_coloured: bool) -> Iterator[str]:
    """Lay out one row; a text that is too long for its column goes on below."""
    columns = [
        textwrap.wrap(text, width, break_on_hyphens=False) for (text, _), width in zip(cells, widths, strict=False)
    ]
    for number in range(max(map(len, columns))):
        line = " " * INDENT
        for column, width, (_, style) in zip(columns, widths, cells, strict=False):
            text = column[number] if number < len(column) else ""
            line += _paint(text, style, is_coloured) + " " * (width - len(text) + GAP)
        yield line.rstrip()


def _paint(text: str, style: str, is_coloured: bool) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if is_coloured and style and text else text
