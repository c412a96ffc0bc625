"""nestctl ssh-config, inventory, bundle: labs in the words of OpenSSH and Ansible, and for those who get a part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nestctl.cli.lab import Connect, LabArgument


def ssh_config(
    lab: LabArgument = None,
    install: Annotated[
        bool, typer.Option("--install", help="Include every lab, now and later, in ~/.ssh/config.")
    ] = False,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Take that line out of it again.")] = False,
) -> None:
    """Print a lab's OpenSSH configuration. With --install, plain 'ssh l2.l1.LAB' works, and so do scp and rsync."""
    from nestctl.console import print_result, say
    from nestctl.errors import UsageError
    from nestctl.lab import ssh_include
    from nestctl.lab.store import expect_up, find_lab

    if install and uninstall:
        raise UsageError("'--install' and '--uninstall' are opposites: give one of them.")
    path = ssh_include.user_configuration()
    if install:
        done = ssh_include.install(path)
        say(f"'{path}' {'now includes' if done else 'includes'} every lab: try 'ssh GUEST.LAB'.")
    elif uninstall:
        done = ssh_include.uninstall(path)
        say(f"'{path}' {'no longer includes' if done else 'does not include'} labs.")
    else:
        print_result((expect_up(find_lab(lab)) / "ssh_config").read_text().rstrip("\n"))


def inventory(
    lab: LabArgument = None,
    list_: Annotated[bool, typer.Option("--list", help="Answer as an inventory script: all groups and hosts.")] = False,
    host: Annotated[
        str | None, typer.Option("--host", metavar="GUEST", help="Answer as an inventory script: one host.")
    ] = None,
) -> None:
    """Print a lab as an Ansible inventory: every level, each guest with its jumps, in groups.

    By itself it is a file for 'ansible -i'; with --list or --host it is what Ansible asks a script of its own for.
    """
    from nestctl.console import print_json
    from nestctl.lab.inventory import host_variables, read_noted, render_file, render_script_list
    from nestctl.lab.nodes import list_nodes, select_nodes
    from nestctl.lab.store import expect_up, find_lab

    found = find_lab(lab)
    nodes, noted = list_nodes(found), read_noted(expect_up(found))
    if host is not None:
        print_json(host_variables(select_nodes(nodes, found.name, host)[0], noted))
    else:
        print_json(render_script_list(nodes, noted) if list_ else render_file(nodes, noted))


def bundle(
    lab: LabArgument = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the directories go.")] = Path("bundles"),
    jump: Annotated[
        str | None,
        typer.Option(metavar="ACCOUNT@HOST", help="How students reach this machine by SSH, if they work elsewhere."),
    ] = None,
    connect: Connect = None,
) -> None:
    """Write a directory for each student, a guest of this machine with all inside it: key, ssh_config and a card.

    A key opens that student's machines and no others. index.html is for whoever runs the lab.
    """
    from nestctl.console import say
    from nestctl.lab.bundle import hand_out, parse_jump
    from nestctl.lab.store import find_lab

    found = find_lab(lab)
    students = hand_out(found, output, jump=parse_jump(jump) if jump else None, connect=connect)
    names = ", ".join(student.name for student in students[:5]) + ", ..." * (len(students) > 5)
    say(f"Wrote {len(students)} {'directory' if len(students) == 1 else 'directories'} into '{output}': {names}.")
    say(f"Begin with '{output / 'index.html'}'. The keys there are secrets: each is for its student alone.")
