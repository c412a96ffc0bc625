"""What it means to run a command and to place a file on a machine, whichever it is and however it is reached."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from nestctl.deadline import Deadline
from nestctl.errors import CommandError


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A command that has ended. Both streams are whole; `exit_code` is negative for a signal."""

    command: tuple[str, ...]
    where: str
    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without its last newline."""
        return self.stdout.decode(errors="replace").rstrip("\n")

    def expect_success(self) -> Completed:
        """Return itself, or raise `CommandError` with the last lines the command printed."""
        if self.exit_code == 0:
            return self
        said = (self.stderr or self.stdout).decode(errors="replace").strip().splitlines()[-6:]
        command = shlex.join(self.command)
        raise CommandError(
            f"'{command if len(command) < 200 else command[:197] + '...'}' on {self.where} "
            f"ended with exit code {self.exit_code}: " + ("\n  ".join(said) or "it printed nothing")
        )


class Shell(Protocol):
    """A machine on which commands can be run: this one, or a guest at any level."""

    @property
    def where(self) -> str:
        """How to name the machine to the user, such as 'this machine' or 'l1.demo'."""

    def run(self, command: Sequence[str], *, deadline: Deadline, stdin: bytes = b"") -> Completed:
        """Run a command to its end and return what it printed.

        Raises `DeadlineError`, and `KeyboardInterrupt` when the deadline is told to stop: the command is then ended;
        and `PrerequisiteError` when it is not installed.
        A command that ends with a failure is a result: see `Completed.expect_success`.
        """


class Conversation(Protocol):
    """A program that runs on and answers what it is asked."""

    def ask(self, text: bytes, *, deadline: Deadline) -> bytes:
        """Send lines, and return the one line that is the answer; b"" when the program has ended instead.

        Raises `DeadlineError`; then nothing more can be asked.
        """

    def end(self, *, deadline: Deadline) -> Completed:
        """Close the program's input and wait for its end; `stdout` is what was not read yet."""


class TalkingShell(Shell, Protocol):
    """A machine on which programs can stay to be asked again and again."""

    def converse(self, command: Sequence[str]) -> AbstractContextManager[Conversation]:
        """Start a program. At the end of the context it gets the end of its input.

        It is ended itself where it owes an answer.
        """
