"""Run nestctl's agent on any machine a Shell reaches: its sources go in through standard input, JSON comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import nestctl.agent
from nestctl.adapters.shell import Completed, Conversation, Shell, TalkingShell
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, PrerequisiteError

PYTHON_HINT = "Install Python 3.8 or newer there, with its whole standard library (Debian: apt-get install python3)."
COMMAND_NOT_FOUND = 127  # what a POSIX shell answers (POSIX.1-2017, 2.8.2)


def run_agent(shell: Shell, arguments: Sequence[str], *, deadline: Deadline) -> Any:
    """Run a subcommand of the agent on the shell's machine and return what it printed.

    Nothing has to be installed there but Python, and no file is left there.
    Raises `PrerequisiteError` when Python is missing or too old, `FailedError` when the agent does not end well.
    """
    completed = shell.run(_command(arguments), deadline=deadline, stdin=_pack())
    if completed.exit_code != 0:
        raise _explain(completed)
    return _parse(completed.stdout, shell.where)


class Agent:
    """The agent on one machine, which stays: it is sent and started once."""

    def __init__(self, conversation: Conversation, where: str) -> None:
        self._conversation = conversation
        self._where = where
        self._unsent = _pack()

    def ask(self, arguments: Sequence[str], *, deadline: Deadline) -> Any:
        """Have it run a subcommand (see `run_agent`). After an error nothing more can be asked."""
        request = self._unsent + json.dumps([*arguments]).encode() + b"\n"
        self._unsent = b""
        answer = self._conversation.ask(request, deadline=deadline)
        if not answer:
            raise _explain(self._conversation.end(deadline=deadline))
        return _parse(answer, self._where)


@contextmanager
def open_agent(shell: TalkingShell, *subcommands: str) -> Iterator[Agent]:
    """Start the agent on the shell's machine; with the context it ends, and no file is left there.

    Naming the subcommands that it will be asked for makes the first question of each as cheap as the next.
    """
    with shell.converse(_command(("serve", *subcommands))) as conversation:
        yield Agent(conversation, shell.where)


def _command(arguments: Sequence[str]) -> tuple[str, ...]:
    # -I: what lies in the working directory or in PYTHONPATH is not imported; -B: no compiled file is written.
    return ("python3", "-I", "-B", "-c", _bootstrap(), *arguments)


def _parse(answer: bytes, where: str) -> Any:
    try:
        return json.loads(answer)
    except ValueError as error:
        said = answer.decode(errors="replace").strip()[:200]
        raise FailedError(f"The agent on {where} did not answer with JSON but with '{said}'.") from error


def _explain(completed: Completed) -> PrerequisiteError | FailedError:
    said = completed.stderr.decode(errors="replace").strip().splitlines()
    reason = said[-1] if said else "it printed nothing"
    if completed.exit_code == COMMAND_NOT_FOUND:
        return PrerequisiteError(f"There is no 'python3' on {completed.where}: {reason}.", hint=PYTHON_HINT)
    if reason.startswith("nestctl needs"):  # a sentence of nestctl/agent/bootstrap.py
        return PrerequisiteError(f"The agent cannot run on {completed.where}: {reason}.", hint=PYTHON_HINT)
    return FailedError(f"The agent on {completed.where} ended with exit code {completed.exit_code}: {reason}")


def _sources() -> Path:
    return Path(nestctl.agent.__file__).parent


@cache
def _bootstrap() -> str:
    return (_sources() / "bootstrap.py").read_text(encoding="utf-8")


@cache
def _pack() -> bytes:
    """Return the package as a line, {"agent.module": source}; its imports are relative, so its name may change."""
    names = {"__init__": "agent"}
    modules = sorted(path for path in _sources().glob("*.py") if path.stem != "bootstrap")
    line = json.dumps(
        {names.get(path.stem, f"agent.{path.stem}"): path.read_text(encoding="utf-8") for path in modules}
    )
    return line.encode() + b"\n"
