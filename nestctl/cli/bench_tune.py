"""nestctl bench tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestctl.cli.lab import Connect, Json, LabArgument
from nestctl.cli.quantities import parse_budget

if TYPE_CHECKING:
    from nestctl.model.lab import Lab

# One more than an interval needs, so that every round has one that goes backwards.
_ROUNDS = 6


def tune(
    lab: LabArgument = None,
    connect: Connect = None,
    guest: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The guest to measure.", show_default="the innermost of the first"),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Try only this: a setting on every machine on the way to the guest, or SETTING@MACHINE; repeat for "
            "more.",
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Only say what can be tried, why it might matter, and what cannot.")
    ] = False,
    host: Annotated[
        bool, typer.Option("--host", help="Change this machine's settings too, and load its KVM modules again.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Boots with every setting.")] = _ROUNDS,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Begin no round that would not end within this time, such as 30m or 2h."),
    ] = None,
    workload: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Measure only this; repeat for more.")
    ] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the results and the report go.")] = Path("results"),
    json: Json = False,
) -> None:
    """Try settings that matter for nesting, one at a time, and say what helps here. Everything is put back.

    The guest is booted anew for every value, and the lab has to be up as its file says.
    """
    from nestctl.bench.tune.use_case import list_lab_trials
    from nestctl.console import print_json, print_rich
    from nestctl.lab.store import find_lab

    found = find_lab(lab)
    if list_:
        from nestctl.bench.tune.report import render_trials, render_trials_table

        trials = list_lab_trials(found, guest=guest, names=setting or (), connect=connect, may_change_host=host)
        if json:
            print_json(render_trials(trials))
        else:
            print_rich(render_trials_table(trials))
        return
    budget_s = parse_budget(budget, "--budget") if budget is not None else None
    _tune(found, connect, guest, setting or [], workload or [], rounds, budget_s, host, output, as_json=json)


def _tune(
    lab: Lab,
    connect: str | None,
    guest: str | None,
    settings: list[str],
    workloads: list[str],
    rounds: int,
    budget_s: float | None,
    may_change_host: bool,
    output: Path,
    *,
    as_json: bool,
) -> None:
    import secrets

    from nestctl import console
    from nestctl.adapters.files import check_directory
    from nestctl.bench.tune.report import render_tune, render_tune_table
    from nestctl.bench.tune.use_case import tune_lab

    check_directory(output)
    tuned = tune_lab(
        lab,
        guest=guest,
        names=settings,
        workloads=workloads,
        rounds=rounds,
        budget_s=budget_s,
        may_change_host=may_change_host,
        seed=secrets.randbelow(1 << 32),
        connect=connect,
        directory=output,
        step=console.step,
        say=console.say,
    )
    if as_json:
        console.print_json(render_tune(tuned.summary))
    else:
        console.print_rich(render_tune_table(tuned.summary))
    for path in tuned.files:
        console.say(f"Written: {path}")
    raise typer.Exit(tuned.exit_code)
