"""nestctl exec, cp, logs, console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nestctl.cli.complete import complete_guest
from nestctl.cli.lab import Connect, Json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nestctl.lab.reach import Outcome

GuestArgument = Annotated[
    str, typer.Argument(metavar="GUEST", help="A guest of ./lab.yaml, or LAB/GUEST.", autocompletion=complete_guest)
]
Timeout = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", min=1, help="How long a command may take in a guest; it is ended there, as timeout(1) does."
    ),
]


def strip_separator(words: list[str]) -> list[str]:
    """Drop the '--' before a command: with interspersed options off it is handed on."""
    return words[1:] if words[:1] == ["--"] else words


def exec_(
    guests: Annotated[
        str,
        typer.Argument(
            metavar="GUEST",
            help="A guest of ./lab.yaml, LAB/GUEST, or a pattern of many: 'LAB/*'.",
            autocompletion=complete_guest,
        ),
    ],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="What to run there.")],
    timeout: Timeout = 3600.0,
    json: Json = False,
) -> None:
    """Run a command in a guest, for scripts: no terminal, and its output, errors, input and exit code are its own.

    A pattern runs it in many guests at once, without input; every line then begins with the guest's name. The exit
    code is 1 when it failed somewhere, 4 when a guest could not be reached. Options come before the guest's name.
    """
    from nestctl.adapters.process import replace_process
    from nestctl.deadline import Deadline
    from nestctl.lab.nodes import find_nodes, is_pattern
    from nestctl.lab.reach import exec_command, run_on_all

    nodes, words = find_nodes(guests), strip_separator(command)
    if not is_pattern(guests) and not json:
        replace_process(exec_command(nodes[0], words, timeout))
    outcomes = run_on_all(nodes, words, Deadline.after(timeout, "The command in every guest"))
    _show(outcomes, as_json=json)
    raise typer.Exit(exit_code(outcomes))


def cp(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="What to copy, and in the end where to; GUEST:PATH in a guest.")
    ],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Copy directories.")] = False,
) -> None:
    """Copy files to, from and between guests at any level: nestctl cp l2:/var/log/syslog . (by scp)."""
    from nestctl.adapters.process import replace_process
    from nestctl.errors import UsageError
    from nestctl.lab.reach import copy_command

    if len(paths) < 2:
        raise UsageError("Say what to copy and where to: 'nestctl cp FILE GUEST:PATH'.")
    replace_process(copy_command(paths[:-1], paths[-1], is_recursive=recursive))


def logs(
    guest: GuestArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing what it writes.")] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", metavar="NUMBER", min=0, help="Only so many of the last lines.")
    ] = None,
) -> None:
    """Print what a guest wrote to its serial console since it was started: kernel, boot, logins."""
    from nestctl.adapters.process import replace_process
    from nestctl.lab.nodes import find_node
    from nestctl.lab.reach import log_command

    replace_process(log_command(find_node(guest), lines=lines, is_followed=follow))


def console(guest: GuestArgument, connect: Connect = None) -> None:
    """Join this terminal to a guest's serial console: for a guest that SSH does not reach. Ctrl-] ends it."""
    from nestctl.adapters.process import replace_process
    from nestctl.console import say
    from nestctl.lab.nodes import find_node
    from nestctl.lab.serial import console_command

    command = console_command(find_node(guest), connect=connect)
    say(f"The serial console of '{guest}': Enter shows its prompt (root, no password), Ctrl-] ends.")
    replace_process(command)


def _show(outcomes: Iterable[Outcome], *, as_json: bool) -> None:
    import sys

    from nestctl.console import print_json
    from nestctl.lab.outcomes import render_exec, render_lines

    if as_json:
        print_json(render_exec(outcomes))
        return
    for outcome in outcomes:
        sys.stdout.write(render_lines(outcome.node.name, outcome.stdout))
        sys.stdout.flush()
        sys.stderr.write(render_lines(outcome.node.name, outcome.trouble or outcome.stderr))


def exit_code(outcomes: Iterable[Outcome]) -> int:
    from nestctl.errors import ExitCode

    codes = [outcome.exit_code for outcome in outcomes]
    if None in codes:
        return ExitCode.FAILED
    return ExitCode.NO if any(codes) else ExitCode.OK
