"""Switch nesting on or off on a machine: look, refuse what would hurt, let Ansible do it, look again."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nestctl.adapters.ansible import find_reason, run_ansible
from nestctl.adapters.shell import Completed
from nestctl.adapters.ssh_options import Destination, read_options
from nestctl.check.findings import Answer, Verdict
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, FailedError, GuestError, NotFoundOutError, UnreachableError
from nestctl.paths import resource
from nestctl.targets.check import check_target
from nestctl.targets.module import (
    DROP_IN,
    ModuleState,
    command_for,
    read_state,
    render_state_json,
    say_left,
    say_users,
)
from nestctl.targets.target import Target, open_target

# What one look may take, in seconds, in an emulated guest of an emulated guest that does other things.
LOOK_S = 120.0

# How a machine that no longer answers shows itself.
_LOST = (DeadlineError, GuestError, UnreachableError)

# ssh asks a machine that says nothing for a sign of life so often, in seconds, and gives it up after so many.
_ALIVE_INTERVAL_S = 15
_ALIVE_COUNT = 8


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be: nesting on or off, written for every load to come, in effect at once, or both."""

    on: bool
    persist: bool
    now: bool


@dataclass(frozen=True, kw_only=True)
class Switched:
    """What came of it: how many of the playbook's tasks changed something, how it is now, what the check says."""

    changes: int
    state: ModuleState
    answer: Answer | None


def look_at(target: Target, timeout_s: float = LOOK_S) -> ModuleState:
    """Look at a target's module. Raises `NotFoundOutError` when it says nothing, or nothing that is understood."""
    deadline = Deadline.after(timeout_s, f"Looking at '{target.name}'")
    try:
        with open_target(target, deadline) as shell:
            return read_state(shell, deadline)
    except (DeadlineError, GuestError) as error:
        raise NotFoundOutError(error.message, hint=error.hint) from error


def refuse(state: ModuleState, wanted: Wanted) -> str:
    """Say why nothing can be done; empty when something can, or is done already."""
    if not state.name:
        return "The CPU shows neither VMX nor SVM, and neither kvm_intel nor kvm_amd is there: nothing can be set."
    if state.is_on is wanted.on:
        return ""
    if state.state == "builtin":
        return (
            f"'{state.name}' is built into the kernel, so that a file cannot set its parameters: add "
            f"'{state.name}.nested={int(wanted.on)}' to the kernel's boot line and boot again."
        )
    if wanted.now and state.is_in_use:
        return f"'{state.name}' is used by {say_users(state)}: it cannot be loaded again. Nothing was changed."
    return ""


def switch(target: Target, state: ModuleState, wanted: Wanted, *, dry_run: bool, deadline: Deadline) -> Switched:
    """Run the playbook and look again. With `dry_run` it only says what it would change.

    Raises `FailedError` when the play fails (everything is then as it was), or the check contradicts what is in effect;
    `NotFoundOutError` when the machine stops answering on the way.
    """
    words = tuple(_words(target, state, wanted, dry_run=dry_run))
    try:
        changes = _count_changes(target, run_ansible("ansible-playbook", words, deadline=deadline))
    except _LOST as error:
        late = f"The playbook did not end within {deadline.timeout_s:g} s."
        said = late if isinstance(error, DeadlineError) else error.message
        raise _lost(target, "whether nesting was switched is not known", said) from error
    if dry_run:
        return Switched(changes=changes, state=state, answer=None)
    try:
        return _look_again(target, wanted, changes, deadline)
    except (*_LOST, NotFoundOutError) as error:
        known = "the playbook has switched nesting, and what came of it is not known"
        raise _lost(target, known, error.message) from error


def _lost(target: Target, what: str, said: str) -> NotFoundOutError:
    return NotFoundOutError(
        f"'{target.name}' does not answer any more: {what}. {said}",
        hint=f"Look at its console. When it answers again: {command_for(target.name, 'nested status')}",
    )


def _look_again(target: Target, wanted: Wanted, changes: int, deadline: Deadline) -> Switched:
    deadline.check()
    after = look_at(target, min(LOOK_S, deadline.remaining_s))
    if after.is_on is not wanted.on:
        if wanted.now and after.state == "loaded":
            raise FailedError(f"'{after.name}' runs with nested={after.value}, although the playbook loaded it again.")
        return Switched(changes=changes, state=after, answer=None)
    timeout_s = min(LOOK_S, deadline.remaining_s)
    answer = check_target(target, passive=False, record=False, timeout_s=timeout_s).assessment.can_nest
    if answer.verdict is (Verdict.NO if wanted.on else Verdict.YES):
        raise FailedError(
            f"nested={after.value} is in effect in '{after.name}', and the check says otherwise: {answer.reason}.",
            hint=f"See what else it found: {command_for(target.name, 'check')}",
        )
    return Switched(changes=changes, state=after, answer=answer)


def _words(target: Target, state: ModuleState, wanted: Wanted, *, dry_run: bool) -> Iterator[str]:
    yield "--inventory=target,"
    values: dict[str, Any] = {"nested": wanted.on, "persist": wanted.persist, "reload": wanted.now}
    if target.destination is None:
        yield "--connection=local"
        # Ours works; one that Ansible finds on PATH may be a version manager's.
        values["ansible_python_interpreter"] = sys.executable
    else:
        options = read_options(target.destination)
        values["ansible_host"] = target.destination.host
        values |= {"ansible_port": options.port, "ansible_user": options.user}
        yield f"--ssh-common-args={shlex.join(_ssh_words(target.destination))}"
    yield f"--extra-vars={json.dumps(values)}"
    if not state.is_root:
        yield "--become"
    if dry_run:
        yield from ("--check", "--diff")
    yield str(resource("playbooks", "nested.yml"))


def _ssh_words(destination: Destination) -> Sequence[str]:
    """Have Ansible's ssh take the same configuration, known hosts and keys as we do, and ask nothing either."""
    options = read_options(destination)
    words = ["-F", str(destination.file)] if destination.file else []
    settings = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "ServerAliveInterval": str(_ALIVE_INTERVAL_S),
        "ServerAliveCountMax": str(_ALIVE_COUNT),
        "UserKnownHostsFile": " ".join(f'"{file}"' for file in options.known_hosts_files),
        **({"HostKeyAlias": options.known_as} if options.known_as else {}),
    }
    words += [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    return [*words, *(word for file in options.identity_files for word in ("-o", f'IdentityFile="{file}"'))]


def _count_changes(target: Target, completed: Completed) -> int:
    """Return how many tasks changed something.

    Raises `FailedError` with the reason when one failed, `UnreachableError` when the machine was lost.
    """
    recap = re.search(r"^target +: .*\bchanged=(\d+)", completed.text, re.MULTILINE)
    if completed.exit_code == 0 and recap:
        return int(recap[1])
    reason = find_reason(completed)
    if re.search(r"^target +: .*\bunreachable=[1-9]", completed.text, re.MULTILINE):
        raise UnreachableError(reason)
    hint = ""
    if "sudo" in reason and "password" in reason.lower():
        hint = "Run it as root, log in as root, or let sudo ask for no password there."
    raise FailedError(f"Nesting on '{target.name}' was not switched: {reason}", hint=hint)


def render_switched(target: Target, before: ModuleState, switched: Switched, wanted: Wanted, *, dry_run: bool) -> str:
    """Say line by line what was changed, or would be, how it is now and what is left to do."""
    after = switched.state
    number = int(wanted.on)
    would = "would be " if dry_run else ""
    does_reload = wanted.now and before.state == "loaded" and before.is_on is not wanted.on
    lines = []
    if wanted.persist:
        # Of the playbook's tasks the one that loads the module is not counted in a dry run.
        is_written = switched.changes > int(does_reload and not dry_run)
        options = f"options {before.name} nested={number}"
        lines.append(f"{DROP_IN}: {would}written: {options}" if is_written else f"{DROP_IN}: unchanged")
    if does_reload:
        lines.append(f"{before.name}: {would}loaded again with nested={number}")
    elif wanted.now:
        lines.append(f"{before.name}: unchanged")
    if switched.answer:
        lines.append(f"in effect: nested={after.value}; the check says of nesting: {switched.answer.reason}")
    if (left := say_left(target.name, after, wanted.on)) and not (dry_run and does_reload):
        lines.append(f"left to do: {left}")
    return "\n".join(lines)


def render_switched_json(
    target: Target, state: ModuleState, wanted: Wanted, *, refused: str = "", changes: int = 0, dry_run: bool = False
) -> dict[str, Any]:
    """Return the document of `nestctl nested status --json`, of the state afterwards, with what was done.

    `changes` counts the playbook's tasks that changed something, or would; `refused` says why none was run.
    """
    done = {"on": wanted.on, "persist": wanted.persist, "now": wanted.now, "dry_run": dry_run}
    left = "" if refused else say_left(target.name, state, wanted.on)
    return {
        **render_state_json(target.name, state),
        "wanted": done,
        "refused": refused,
        "changes": changes,
        "left": left,
    }
