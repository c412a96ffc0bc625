"""nestctl watch: labs as they change."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from nestctl.cli.complete import complete_lab
from nestctl.cli.lab import Connect

if TYPE_CHECKING:
    from nestctl.lab.watch import Row

Interval = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0.5,
        max=3600,
        help="How often to look inside guests. What happens to those of this machine is seen at once.",
    ),
]


def watch(
    lab: Annotated[
        str | None,
        typer.Argument(
            metavar="LAB",
            help="A lab file, or the name of a lab that exists.",
            show_default="./lab.yaml, or all labs that are here",
            autocompletion=complete_lab,
        ),
    ] = None,
    interval: Interval = 5.0,
    connect: Connect = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON line for every change.")] = False,
) -> None:
    """Show labs as they change, at every level, until Ctrl-C: a live table, or elsewhere a line for every change."""
    import sys

    from nestctl.lab.store import DEFAULT_FILE, find_lab, list_labs
    from nestctl.lab.watch import watch as look_on

    everything = list_labs() if lab is None and not DEFAULT_FILE.exists() else ()
    labs = {name: name for name in everything} or {find_lab(lab).name: lab or str(DEFAULT_FILE)}
    with suppress(KeyboardInterrupt):
        if sys.stdout.isatty() and not json:
            from nestctl.console import live
            from nestctl.lab.report import render_rows

            with live(render_rows) as show:
                look_on(labs, connect=connect, interval_s=interval, show=show)
        else:
            look_on(labs, connect=connect, interval_s=interval, show=_Lines(as_json=json).show)


class _Lines:
    """Prints what is another than the last time."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._last: dict[tuple[str, str], Row] = {}

    def show(self, rows: tuple[Row, ...]) -> None:
        from datetime import UTC, datetime
        from json import dumps

        from nestctl.console import print_result
        from nestctl.lab.watch import describe_seen, list_seen, render_seen

        for seen in list_seen(self._last, rows, datetime.now(UTC)):
            print_result(dumps(render_seen(seen)) if self._as_json else describe_seen(seen))
        self._last = {(row.lab, row.name): row for row in rows}
