"""The commands by which OpenSSH does for a guest at any level what one does with a machine: run, copy, read its log."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, NotFoundOutError, PrerequisiteError, UsageError
from nestctl.lab.adoption import as_root_in
from nestctl.lab.nodes import Node, find_node
from nestctl.lab.ssh_config import ssh_command

# No terminal, whoever calls: output stays as it is, and standard output apart from standard error.
_WITHOUT_TERMINAL = ("-T",)

# Nobody is there to be asked, and no input is there to be read (ssh(1)).
_UNATTENDED = ("-T", "-n", "-o", "BatchMode=yes")

# sshd turns connections away at random once ten wait to log in (sshd_config(5), MaxStartups), and the guests inside one
# guest are all reached through its one sshd.
MOST_AT_ONCE = 8

# A command that does not end when it is told to is killed after so many seconds more; that long its end is waited for.
_KILL_AFTER_S = 5
_END_S = 2 * _KILL_AFTER_S

# What timeout(1) ends with when the time was over, and what a shell makes of it when it had to kill, and itself too.
_TIMED_OUT = frozenset({124, 137})
# So a shell waits for it: of a signal ssh only says what it says of a lost connection.
_WAIT = ("sh", "-c", '"$@"; exit', "sh")

# What ssh ends with when it could not connect, or lost the connection (ssh(1), EXIT STATUS).
_SSH_FAILED = 255

# 'GUEST:path' or 'LAB/GUEST:path'; './dir/file:1' is a file of this machine.
_REMOTE = re.compile(r"((?:[a-z0-9-]+/)?[a-z0-9-]+):(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a command in a guest; `exit_code` is None when it has none, for the `trouble` that is said."""

    node: Node
    exit_code: int | None
    stdout: str
    stderr: str
    duration_s: float
    trouble: str = ""

    @property
    def is_success(self) -> bool:
        """Tell whether it ran and ended with 0."""
        return self.exit_code == 0


def exec_command(node: Node, words: Sequence[str], timeout_s: float) -> tuple[str, ...]:
    """Return the command that runs one in a guest, without a terminal; it is ended there after `timeout_s`."""
    return ssh_command(node.directory, node.name, limit_words(words, timeout_s), _WITHOUT_TERMINAL)


def limit_words(words: Sequence[str], timeout_s: float) -> tuple[str, ...]:
    """Put timeout(1) before a command: ending ssh would leave what it runs in the guest to itself."""
    limit = (*_WAIT, "timeout", f"--kill-after={_KILL_AFTER_S}", f"{max(timeout_s, 0.001):.3f}")
    # One word is a shell's text; more are a program and its arguments.
    return (*limit, *words) if len(words) > 1 else (*limit, "sh", "-c", *words)


def run_on_all(nodes: Sequence[Node], words: Sequence[str], deadline: Deadline) -> tuple[Outcome, ...]:
    """Run a command in several guests at once; every guest has its outcome, in the order of `nodes`."""
    return do_on_all(nodes, lambda node, shell: run_on(node, words, deadline, shell))


def do_on_all(nodes: Sequence[Node], work: Callable[[Node, LocalShell], Outcome]) -> tuple[Outcome, ...]:
    """Do something about several guests at once, with a shell whose commands end when we are interrupted."""
    stop = threading.Event()
    shell = LocalShell(stop=stop)
    with ThreadPoolExecutor(max_workers=MOST_AT_ONCE) as pool:
        waiting = [pool.submit(work, node, shell) for node in nodes]
        try:
            return tuple(future.result() for future in waiting)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_on(node: Node, words: Sequence[str], deadline: Deadline, shell: LocalShell) -> Outcome:
    """Run a command in a guest to its end. That it fails, is late, or the guest does not answer is an outcome."""
    begun_s = time.monotonic()
    try:
        limited = limit_words(words, deadline.remaining_s)
        patient = replace(deadline, at_s=deadline.at_s + _END_S)
        completed = shell.run(ssh_command(node.directory, node.name, limited, _UNATTENDED), deadline=patient)
    except DeadlineError as error:
        late_s = time.monotonic() - begun_s
        return Outcome(node=node, exit_code=None, stdout="", stderr="", duration_s=late_s, trouble=error.message)
    stderr = completed.stderr.decode(errors="replace")
    is_lost, is_late = completed.exit_code == _SSH_FAILED, completed.exit_code in _TIMED_OUT and deadline.is_over
    late = f"It did not end within {deadline.timeout_s:g} s, and was ended."
    return Outcome(
        node=node,
        exit_code=None if is_lost or is_late else completed.exit_code,
        stdout=completed.stdout.decode(errors="replace"),
        stderr=stderr,
        duration_s=time.monotonic() - begun_s,
        trouble=f"It cannot be reached: {stderr.strip() or 'ssh says nothing'}" if is_lost else late * is_late,
    )


def copy_command(sources: Sequence[str], destination: str, *, is_recursive: bool) -> tuple[str, ...]:
    """Return the scp command for paths of this machine and 'GUEST:path' of guests, all of one lab.

    Raises `UsageError` when no guest is named, one does not exist, or they are of different labs.
    """
    words, labs = [], {}
    for word in (*sources, destination):
        if found := _REMOTE.fullmatch(word):
            node = find_node(found[1])
            labs[node.lab] = node.directory
            words.append(f"{node.name}:{found[2]}")
        else:
            # A colon behind a slash is no guest's, for scp as for us.
            words.append(word if word.startswith("/") else f"./{word}")
    if not labs:
        raise UsageError(
            "None of these paths is a guest's.", hint="Write a guest's path as GUEST:path or LAB/GUEST:path."
        )
    if len(labs) > 1:
        raise UsageError(
            f"These guests are of different labs: {', '.join(sorted(labs))}.", hint="Copy to this machine first."
        )
    config = str(next(iter(labs.values())) / "ssh_config")
    # Between two guests the bytes come through this machine ('-3'): neither has the other's key.
    return ("scp", "-3", "-q", "-F", config, *(("-r",) if is_recursive else ()), "--", *words)


def log_command(node: Node, *, lines: int | None, is_followed: bool) -> tuple[str, ...]:
    """Return the command that prints what a guest wrote to its console: here, or in the guest that runs it.

    Raises an error when the log is on this machine and cannot be read.
    """
    if node.guest.adopt:
        raise UsageError(f"'{node.name}' is a domain that was adopted: its console is not nestctl's to log.")
    count = "+1" if lines is None else str(lines)
    words = ("tail", "-n", count, *(("-F",) if is_followed else ()), "--", str(node.console))
    if node.outer:
        words = as_root_in(node.lab, node.outer, words)
        return ssh_command(node.directory, node.outer, words, _WITHOUT_TERMINAL)
    try:
        Path(node.console).open("rb").close()
    except FileNotFoundError as error:
        raise NotFoundOutError(f"The guest '{node.name}' has written no console log: it was never started.") from error
    except PermissionError as error:
        raise PrerequisiteError(
            f"The console log '{node.console}' belongs to QEMU's account: {error.strerror}.",
            hint="Read it as root, or use '--connect qemu:///session' for a lab of your own account.",
        ) from error
    return words
