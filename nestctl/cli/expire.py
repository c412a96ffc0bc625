"""nestctl expire, extend: labs that end by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nestctl.cli.lab import Connect, Json
from nestctl.cli.run import ThatLab

if TYPE_CHECKING:
    from nestctl.lab.expire import Seen


def expire(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is due.")] = False,
    warn: Annotated[
        str, typer.Option(metavar="TIME", help="How long before its end a lab's guests are told of it.")
    ] = "30m",
    install: Annotated[bool, typer.Option("--install", help="Write a systemd timer that does this.")] = False,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Remove that timer.")] = False,
    connect: Connect = None,
    json: Json = False,
) -> None:
    """Stop or delete the labs whose time is over ('ttl' in the lab file), and tell the guests of those that are near.

    Exit code 4 when something that was due could not be done.
    """
    from nestctl import console
    from nestctl.errors import ExitCode, UsageError
    from nestctl.lab.expire import expire_labs
    from nestctl.lab.lifetime import now_utc
    from nestctl.model.duration import parse_duration

    if install and uninstall:
        raise UsageError("'--install' and '--uninstall' are opposites: give one of them.")
    if install or uninstall:
        _change_units(install=install, connect=connect)
        return
    seen = expire_labs(
        connect=connect,
        now=now_utc(),
        warn_before=parse_duration(warn),
        is_dry_run=dry_run,
        step=console.step,
        warn=console.warn,
    )
    _show(seen, as_json=json, is_dry_run=dry_run)
    if any(it.trouble for it in seen):
        raise typer.Exit(ExitCode.FAILED)


def extend(
    lab: ThatLab,
    time: Annotated[str, typer.Argument(metavar="TIME", help="How much longer: 90m, 3h, 14d.")],
    connect: Connect = None,
    json: Json = False,
) -> None:
    """Put the end of a lab off: from when it is, or from now on where it is over or the lab had none."""
    from nestctl.console import print_json, print_result
    from nestctl.lab.lifetime import extend_lab, now_utc
    from nestctl.lab.outcomes import render_extended
    from nestctl.lab.report import format_time
    from nestctl.lab.store import find_lab_name
    from nestctl.model.duration import parse_duration

    name = find_lab_name(lab)
    later = extend_lab(name, parse_duration(time), connect=connect, now=now_utc())
    if json:
        print_json(render_extended(name, later))
        return
    print_result(f"The lab '{name}' ends {format_time(later.at)} (then: {later.action}).")


def _change_units(*, install: bool, connect: str | None) -> None:
    from nestctl.console import say
    from nestctl.lab import timer

    directory = timer.unit_directory()
    if not install:
        was_there = timer.uninstall_units(directory)
        say(f"{'Removed' if was_there else 'There is no'} timer in '{directory}'.")
        return
    for path in timer.install_units(directory, timer.find_program(), connect):
        say(f"Wrote '{path}'.")
    say(f"Start it with: {timer.enable_command()}")


def _show(seen: tuple[Seen, ...], *, as_json: bool, is_dry_run: bool) -> None:
    from nestctl.console import print_json, print_rich, say
    from nestctl.lab.outcomes import render_expiries, render_expiries_table

    if as_json:
        print_json(render_expiries(seen, is_dry_run=is_dry_run))
    elif seen:
        print_rich(render_expiries_table(seen, is_dry_run=is_dry_run))
    else:
        say("No lab is on this machine.")
