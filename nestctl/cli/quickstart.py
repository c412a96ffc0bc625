"""nestctl quickstart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nestctl.cli.lab import Connect, Json


def quickstart(
    connect: Connect = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the results and the report go.")] = Path("results"),
    json: Json = False,
) -> None:
    """Do it all once: check, build the image, boot a guest in a guest, measure every level, clean up."""
    import secrets

    from nestctl import console
    from nestctl.check import check_this_machine
    from nestctl.check.report import render_summary
    from nestctl.cli.bench import show_measured
    from nestctl.quickstart import run_quickstart

    console.say(render_summary(check_this_machine().assessment) + "\n")
    measured = run_quickstart(
        connect=connect,
        directory=output,
        seed=secrets.randbelow(1 << 32),
        step=console.step,
        say=console.say,
        warn=console.warn,
    )
    show_measured(measured, as_json=json)
    raise typer.Exit(measured.exit_code)
