"""Bring a lab up, run one thing in each of its guests, and remove it: a matrix, when every row is a guest."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from nestctl.adapters.ansible import find_ansible, run_ansible
from nestctl.adapters.files import check_directory
from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, GuestError, NestctlError, UsageError
from nestctl.lab.converge import up
from nestctl.lab.inventory import read_noted, render_file
from nestctl.lab.level import Step
from nestctl.lab.nodes import Node, list_nodes, select_nodes
from nestctl.lab.part import remove_guests
from nestctl.lab.reach import Outcome, do_on_all, run_on
from nestctl.lab.remove import clean_up
from nestctl.lab.store import lab_directory
from nestctl.model.lab import Lab

# What ansible-playbook ends with when a host could not be reached (ansible-playbook's run results are added up).
_UNREACHABLE = 4


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is run in every guest: a command's words, or an Ansible playbook. `nodes` is a pattern, or the innermost."""

    words: tuple[str, ...] = ()
    playbook: Path | None = None
    nodes: str | None = None
    timeout_s: float = 3600.0

    @property
    def title(self) -> str:
        """What people call it: the playbook, or the command's words."""
        return str(self.playbook) if self.playbook else " ".join(self.words)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What came of it in every guest; `kept` names the guests of this machine that are left for a look."""

    lab: str
    task: Task
    outcomes: tuple[Outcome, ...]
    duration_s: float
    kept: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The guests that did not pass, those that could not be reached among them."""
        return tuple(outcome for outcome in self.outcomes if not outcome.is_success)


def check_task(
    *, words: Sequence[str], playbook: Path | None, nodes: str | None, timeout_s: float, junit: Path | None
) -> Task:
    """Make a task of what was asked for. Raises `UsageError` before anything is started in vain."""
    if bool(words) is bool(playbook):
        raise UsageError(
            "Say what to run: a command after '--', or '--playbook FILE'."
            if not words
            else "'--playbook' and a command are two things to run: give one of them."
        )
    if playbook and not playbook.is_file():
        raise UsageError(f"There is no playbook '{playbook}'.")
    if junit and not junit.absolute().parent.is_dir():
        raise UsageError(f"There is no directory '{junit.parent}' for '{junit.name}'.")
    if junit and junit.is_dir():
        raise UsageError(f"'{junit}' is a directory, and '--junit' names a file.")
    if junit:
        check_directory(junit.parent)
    if playbook:
        find_ansible("ansible-playbook")
    return Task(words=tuple(words), playbook=playbook, nodes=nodes, timeout_s=timeout_s)


def choose_nodes(lab: Lab, pattern: str | None) -> tuple[Node, ...]:
    """Choose the guests of a lab that something is run in. Raises `UsageError` when none is called so."""
    nodes = list_nodes(lab)
    if pattern is not None:
        return select_nodes(nodes, lab.name, pattern)
    return tuple(node for node in nodes if not node.guest.guests)


def run_lab(
    lab: Lab,
    task: Task,
    *,
    connect: str | None,
    keep_failed: bool,
    step: Step,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> RunResult:
    """Bring a lab up, run the task in its guests, all at once, and remove what was brought up, whatever happens.

    With `keep_failed` the guests of this machine stay that have a failure in them. A lab that was there before stays.
    A guest that does not come up fails its row, and no other.
    """
    nodes = choose_nodes(lab, task.nodes)
    begun_s = time.monotonic()
    was_there = lab_directory(lab.name).exists()
    try:
        _bring_up(lab, connect=connect, step=step, say=say, warn=warn)
        names = ", ".join(node.name for node in nodes[:5]) + ", ..." * (len(nodes) > 5)
        with step(f"Running '{task.title}' in {names}", lab=lab.name):
            outcomes = run_task(task, lab, nodes, step)
    except BaseException:
        if not was_there:
            clean_up(lab.name, connect=connect, step=step, warn=warn)
        raise
    result = RunResult(lab=lab.name, task=task, outcomes=outcomes, duration_s=time.monotonic() - begun_s)
    if was_there:
        return result
    kept = {outcome.node.path[0] for outcome in result.failed} if keep_failed else set()
    if not kept:
        clean_up(lab.name, connect=connect, step=step, warn=warn)
        return result
    try:
        remove_guests(lab, [name for name in lab.guests if name not in kept], connect=connect, step=step)
    except NestctlError as error:
        warn(f"not all that passed could be removed: {error.message}")
    return replace(result, kept=tuple(name for name in lab.guests if name in kept))


def run_task(task: Task, lab: Lab, nodes: Sequence[Node], step: Step) -> tuple[Outcome, ...]:
    """Run the task in guests that are up, several at once; every guest has its outcome, and a step of its own."""
    deadline = Deadline.after(task.timeout_s, "What is run in every guest")
    with TemporaryDirectory(prefix="nestctl-") as directory:
        inventory = Path(directory) / f"{lab.name}.json"

        def work(node: Node, shell: LocalShell) -> Outcome:
            if task.playbook:
                return _play(task.playbook, inventory, node, deadline, shell)
            return run_on(node, task.words, deadline, shell)

        if task.playbook:
            inventory.write_text(json.dumps(render_file(list_nodes(lab), read_noted(lab_directory(lab.name)))))
        return do_on_all(nodes, lambda node, shell: _shown(node, lambda: work(node, shell), step))


class _RowError(GuestError):
    """A row that did not pass: its step has failed, the run has not."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.trouble or f"It ended with exit code {outcome.exit_code}.")
        self.outcome = outcome


def _expect_passed(outcome: Outcome) -> Outcome:
    if not outcome.is_success:
        raise _RowError(outcome)
    return outcome


def _shown(node: Node, work: Callable[[], Outcome], step: Step) -> Outcome:
    """Do a row's work as a step, which ends as the row does."""
    try:
        with step(f"Running in {node.name}", lab=node.lab, node=node.name, level=node.level):
            return _expect_passed(work())
    except _RowError as error:
        return error.outcome


def _play(playbook: Path, inventory: Path, node: Node, deadline: Deadline, shell: LocalShell) -> Outcome:
    """Run a playbook for one guest: a process each, so that rows end and fail by themselves."""
    words = ("--inventory", str(inventory), "--limit", node.name, "--", str(playbook))
    begun_s = time.monotonic()
    try:
        completed = run_ansible("ansible-playbook", words, deadline=deadline, stop=shell.stop)
    except DeadlineError as error:
        late_s = time.monotonic() - begun_s
        return Outcome(node=node, exit_code=None, stdout="", stderr="", duration_s=late_s, trouble=error.message)
    stdout, code = completed.stdout.decode(errors="replace"), completed.exit_code
    trouble = ""
    if code == _UNREACHABLE:
        trouble = "Ansible cannot reach it."
    elif code == 0 and not re.search(rf"^{re.escape(node.name)}\s+: ok=", stdout, re.MULTILINE):
        trouble = "No play of the playbook is for this guest: its 'hosts' leaves it out."
    return Outcome(
        node=node,
        exit_code=None if trouble else code,
        stdout=stdout,
        stderr=completed.stderr.decode(errors="replace"),
        duration_s=time.monotonic() - begun_s,
        trouble=trouble,
    )


def _bring_up(
    lab: Lab, *, connect: str | None, step: Step, say: Callable[[str], None], warn: Callable[[str], None]
) -> None:
    try:
        up(lab, connect=connect, step=step, say=say)
    except UsageError:
        raise
    except NestctlError as error:
        if not (lab_directory(lab.name) / "ssh_config").exists():
            raise
        # Some guests are up: what is to be run is run in them, and the others' rows say that they are not there.
        warn(error.message)
