"""nestctl bench run, tune, show, list, export, compare; `nestctl bench LAB` is `nestctl bench run LAB`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from nestctl.bench.use_case import Measured

from nestctl.cli.bench_tune import tune
from nestctl.cli.lab import Connect, Json, LabArgument
from nestctl.cli.quantities import parse_budget, parse_percent, parse_precision


class _RunByDefault(TyperGroup):
    """Takes `nestctl bench lab.yaml --quick` for `nestctl bench run lab.yaml --quick`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_named = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        if not is_named and not ctx.resilient_parsing:
            args = ["run", *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = typer.Typer(
    cls=_RunByDefault,
    help="Measure what every level costs, and work with the results. 'bench LAB' is short for 'bench run LAB'.",
)

app.command()(tune)

_RESULT = "A result file, or its name in results/."
ResultArgument = Annotated[
    str | None, typer.Argument(metavar="RESULT", help=_RESULT, show_default="the newest in results/")
]


@app.command()
def run(
    lab: LabArgument = None,
    connect: Connect = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer workloads, fewer and shorter samples: wider intervals.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Everything there is to measure, however long it takes.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Visits to every level.", show_default="5")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Measure as many rounds as fit into this time, such as 90s, 5m or 1h."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="Repeat until every ratio is known to so many per cent, such as 3%."),
    ] = None,
    fresh: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            metavar="ROUNDS",
            help="Boot all guests anew after so many rounds: what a boot changes counts.",
        ),
    ] = None,
    workload: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Measure only this; repeat for more.")
    ] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the results and the report go.")] = Path("results"),
    json: Json = False,
) -> None:
    """Measure what every level of a lab costs: CPU, exits, memory, disk, network, boot. Writes a report and samples."""
    import secrets

    from nestctl import console
    from nestctl.bench.use_case import choose_settings, measure_lab
    from nestctl.lab.store import find_lab

    seed = secrets.randbelow(1 << 32)
    settings = choose_settings(
        is_quick=quick,
        is_full=full,
        rounds=rounds,
        budget_s=parse_budget(budget, "--budget") if budget is not None else None,
        until=parse_precision(until, "--until") if until is not None else None,
        workloads=workload or (),
        fresh=fresh,
        seed=seed,
    )
    measured = measure_lab(find_lab(lab), connect=connect, settings=settings, directory=output, step=console.step)
    show_measured(measured, as_json=json)
    raise typer.Exit(measured.exit_code)


@app.command()
def show(result: ResultArgument = None, json: Json = False) -> None:
    """Print the table of a run that was measured before."""
    from nestctl import console
    from nestctl.bench.files import find_results, read_results
    from nestctl.bench.summary import summarize
    from nestctl.bench.table import render_table

    results = read_results(find_results(result))
    if json:
        console.print_json(results.model_dump(mode="json", by_alias=True))
    else:
        console.print_rich(render_table(summarize(results)))


@app.command("list")
def list_(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where results are.")] = Path("results"),
    json: Json = False,
) -> None:
    """List the runs in results/, the newest first."""
    from nestctl import console
    from nestctl.bench.compare_report import render_list, render_list_table
    from nestctl.bench.files import list_results

    found = list_results(directory)
    if json:
        console.print_json(render_list(found))
    elif found:
        console.print_rich(render_list_table(found))
    else:
        console.say(f"There is no result in '{directory}'.")


@app.command()
def export(
    result: ResultArgument = None,
    kind: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="csv, md, html or json: the figures, without raw samples.")
    ] = "csv",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write to this file.", show_default="standard output")
    ] = None,
) -> None:
    """Write the figures of a run as CSV, Markdown, HTML or JSON."""
    from nestctl import console
    from nestctl.adapters.files import write_named
    from nestctl.bench.export import export_results, parse_format
    from nestctl.bench.files import find_results, read_results

    chosen = parse_format(kind)
    text = export_results(read_results(find_results(result)), chosen)
    if output is None:
        console.print_result(text.rstrip("\n"))
    else:
        write_named(output, text.encode())


@app.command()
def compare(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help=_RESULT)],
    after: Annotated[str, typer.Argument(metavar="AFTER", help=_RESULT)],
    threshold: Annotated[
        str, typer.Option(metavar="PERCENT", help="By how much the whole interval has to be dearer for a regression.")
    ] = "5%",
    force: Annotated[bool, typer.Option("--force", help="Compare runs of different machines or states.")] = False,
    ignore_boots: Annotated[
        bool,
        typer.Option("--ignore-boots", help="Judge runs of one boot each as if booting anew changed nothing."),
    ] = False,
    json: Json = False,
) -> None:
    """Say what changed between two runs beyond the noise. Exit code 1 when something got dearer than the threshold."""
    from nestctl import console
    from nestctl.bench.compare import compare_runs
    from nestctl.bench.compare_report import render_comparison, render_comparison_table
    from nestctl.bench.files import find_results, read_results
    from nestctl.bench.summary import summarize
    from nestctl.errors import ExitCode

    limit = parse_percent(threshold, "--threshold")
    earlier, later = (summarize(read_results(find_results(name))) for name in (before, after))
    comparison = compare_runs(earlier, later, threshold=limit, is_forced=force, ignores_boots=ignore_boots)
    if json:
        console.print_json(render_comparison(comparison))
    else:
        console.print_rich(render_comparison_table(comparison))
    if comparison.regressions:
        raise typer.Exit(ExitCode.NO)


def show_measured(measured: Measured, *, as_json: bool) -> None:
    """Print what was measured, and tell the user which files were written."""
    from nestctl import console
    from nestctl.bench.plots import MATPLOTLIB_HINT
    from nestctl.bench.table import render_table

    if as_json:
        console.print_json(measured.summary.results.model_dump(mode="json", by_alias=True))
    else:
        console.print_rich(render_table(measured.summary))
    console.say(f"Raw samples: {measured.written.results}")
    if measured.written.report:
        console.say(f"Report: {measured.written.report}")
    else:
        console.warn(f"no HTML report was written, for matplotlib is not installed. {MATPLOTLIB_HINT}")
