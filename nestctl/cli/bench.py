"""nestctl bench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nestctl.bench.use_case import Measured

from nestctl.cli.lab import Connect, Json, LabArgument


def bench(
    lab: LabArgument = None,
    connect: Connect = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter samples: wider intervals.")] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Visits to every level.", show_default="5, or 3 with --quick")
    ] = None,
    workload: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Measure only this; repeat for more.")
    ] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the results and the report go.")] = Path("results"),
    json: Json = False,
) -> None:
    """Measure what every level of a lab costs: CPU, exits, memory, disk, boot. Writes a report and raw samples."""
    import secrets

    from nestctl import console
    from nestctl.bench.use_case import choose_settings, measure_lab
    from nestctl.lab.store import find_lab

    seed = secrets.randbelow(1 << 32)
    settings = choose_settings(is_quick=quick, rounds=rounds, workloads=workload or (), seed=seed)
    measured = measure_lab(find_lab(lab), connect=connect, settings=settings, directory=output, step=console.step)
    show(measured, as_json=json)
    raise typer.Exit(measured.exit_code)


def show(measured: Measured, *, as_json: bool) -> None:
    """Print what was measured, and tell the user which files were written."""
    from nestctl import console
    from nestctl.bench.table import render_table

    if as_json:
        console.print_json(measured.summary.results.model_dump(mode="json", by_alias=True))
    else:
        console.print_rich(render_table(measured.summary))
    console.say(f"Raw samples: {measured.written.results}")
    if measured.written.report:
        console.say(f"Report: {measured.written.report}")
    else:
        console.warn("no HTML report was written: install nestctl[report], which brings matplotlib.")
