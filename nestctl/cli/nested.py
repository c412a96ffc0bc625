"""nestctl nested status, on, off: the parameter `nested` of KVM's module."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Show and set the module parameter that lets guests of a machine be hypervisors.")

TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="TARGET", help="ssh://[USER@]HOST[:PORT], LAB/GUEST or localhost.", show_default="this machine"
    ),
]
Persist = Annotated[
    bool, typer.Option("--persist", help="Write it for every load to come; the default without '--now'.")
]
Now = Annotated[bool, typer.Option("--now", help="Load the module again. Refused while guests run.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be changed.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Time for all of it.")]
_HERE = "localhost"
_LOOK_S, _SWITCH_S = 120.0, 900.0  # an emulated guest of an emulated guest needs as long


@app.command()
def status(
    target: TargetArgument = _HERE,
    timeout_s: Timeout = _LOOK_S,
    as_json: AsJson = False,
) -> None:
    """Show what is in effect, on disk and on the boot line, and who uses the module. Changes nothing.

    Exit code 0: nesting is on in the loaded module. 1: it is off, or no module is loaded. 3: the machine did not say.
    """
    from nestctl.console import print_json, print_result
    from nestctl.errors import ExitCode
    from nestctl.targets.module import render_state, render_state_json
    from nestctl.targets.switch import look_at
    from nestctl.targets.target import parse_target

    state = look_at(parse_target(target), timeout_s)
    if as_json:
        print_json(render_state_json(target, state))
    else:
        print_result(render_state(state))
    if not state.is_on:
        raise typer.Exit(ExitCode.NO)


@app.command()
def on(
    target: TargetArgument = _HERE,
    persist: Persist = False,
    now: Now = False,
    dry_run: DryRun = False,
    timeout_s: Timeout = _SWITCH_S,
    as_json: AsJson = False,
) -> None:
    """Switch nesting on, through the playbook nested.yml (needs Ansible here) and as root there.

    Exit code 0: done, also when there was nothing to change. 1: refused: guests run, or only the boot line helps.
    3: the machine stopped answering. 4: it failed, and everything is as it was.
    """
    _switch(target, on=True, persist=persist, now=now, dry_run=dry_run, timeout_s=timeout_s, as_json=as_json)


@app.command()
def off(
    target: TargetArgument = _HERE,
    persist: Persist = False,
    now: Now = False,
    dry_run: DryRun = False,
    timeout_s: Timeout = _SWITCH_S,
    as_json: AsJson = False,
) -> None:
    """Switch nesting off, in the same way."""
    _switch(target, on=False, persist=persist, now=now, dry_run=dry_run, timeout_s=timeout_s, as_json=as_json)


def _switch(name: str, *, on: bool, persist: bool, now: bool, dry_run: bool, timeout_s: float, as_json: bool) -> None:
    from nestctl.console import print_json, print_result, step
    from nestctl.deadline import Deadline
    from nestctl.errors import ExitCode
    from nestctl.targets.switch import Wanted, look_at, refuse, render_switched, render_switched_json, switch
    from nestctl.targets.target import parse_target

    target = parse_target(name)
    wanted = Wanted(on=on, persist=persist or not now, now=now)
    deadline = Deadline.after(timeout_s, f"Switching nesting on '{target.name}'")
    before = look_at(target, min(_LOOK_S, timeout_s))
    if reason := refuse(before, wanted):
        if as_json:
            print_json(render_switched_json(target, before, wanted, refused=reason, dry_run=dry_run))
        else:
            print_result(reason)
        raise typer.Exit(ExitCode.NO)
    with step(f"Running the playbook nested.yml on {target.name}" + (" in check mode" if dry_run else "")):
        switched = switch(target, before, wanted, dry_run=dry_run, deadline=deadline)
    if as_json:
        print_json(render_switched_json(target, switched.state, wanted, changes=switched.changes, dry_run=dry_run))
    else:
        print_result(render_switched(target, before, switched, wanted, dry_run=dry_run))
