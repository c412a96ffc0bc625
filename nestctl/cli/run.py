"""nestctl run, reset: a lab for one run of something, and a guest made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nestctl.cli.complete import complete_lab
from nestctl.cli.lab import Connect, Json
from nestctl.cli.reach import GuestArgument, Timeout, exit_code

ThatLab = Annotated[
    str,
    typer.Argument(metavar="LAB", help="A lab file, or the name of a lab that exists.", autocompletion=complete_lab),
]


def run(
    lab: ThatLab,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="What to run in every guest, after '--'.")
    ] = None,
    playbook: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Run an Ansible playbook instead of a command.")
    ] = None,
    nodes: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="The guests to run it in.", show_default="the innermost ones"),
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results as JUnit XML, too.")] = None,
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Keep what a failure happened in; remove the rest.")
    ] = False,
    timeout: Timeout = 3600.0,
    connect: Connect = None,
    json: Json = False,
) -> None:
    """Bring a lab up, run a command or playbook in its innermost guests at once, and remove it again.

    nestctl run lab.yaml --junit results.xml -- make check. The exit code is 1 when it failed in a guest, and 4 when one
    gave no answer. A lab that was up before is left up.
    """
    from nestctl import console
    from nestctl.adapters.files import write_named
    from nestctl.lab.images import check_images
    from nestctl.lab.junit import render_junit
    from nestctl.lab.outcomes import render_run, render_run_table, say_how_to_reach
    from nestctl.lab.run import check_task, run_lab
    from nestctl.lab.store import find_lab

    task = check_task(words=command or (), playbook=playbook, nodes=nodes, timeout_s=timeout, junit=junit)
    result = run_lab(
        find_lab(lab, check_images),
        task,
        connect=connect,
        keep_failed=keep_failed,
        step=console.step,
        say=console.say,
        warn=console.warn,
    )
    if json:
        console.print_json(render_run(result))
    else:
        console.print_rich(render_run_table(result))
    if junit:
        write_named(junit, render_junit(result))
    if result.kept:
        console.say(say_how_to_reach(result))
    raise typer.Exit(exit_code(result.outcomes))


def reset(
    guest: GuestArgument,
    connect: Connect = None,
) -> None:
    """Make a guest anew, with all inside it: new disks, the same names, addresses and keys. The others run on."""
    from nestctl.console import say, step
    from nestctl.lab.nodes import find_node
    from nestctl.lab.part import reset_guest
    from nestctl.lab.store import read_kept_lab

    node = find_node(guest)
    reset_guest(read_kept_lab(node.lab), node, connect=connect, step=step, say=say)
    say(f"'{node.name}' is new: 'nestctl ssh {node.lab}/{node.name}'.")
