"""`nestctl check`."""

from __future__ import annotations

from typing import Annotated

import typer


def check(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings and the raw facts as JSON.")] = False,
    passive: Annotated[
        bool, typer.Option("--passive", help="Only read files, run no code: what is not proved is unknown.")
    ] = False,
) -> None:
    """Say whether guests of this machine can nest, and prove it by running code.

    Exit code 0: guests can nest with hardware help. 1: they cannot (labs may still be emulated). 3: not found out.
    """
    from nestctl import console
    from nestctl.check import check_this_machine
    from nestctl.check.report import render_json, render_summary, render_table

    report = check_this_machine(passive=passive)
    if as_json:
        console.print_json(render_json(report))
    else:
        console.print_result(render_summary(report.assessment) + "\n")
        console.print_rich(render_table(report.assessment))
    raise typer.Exit(report.assessment.verdict.exit_code)
