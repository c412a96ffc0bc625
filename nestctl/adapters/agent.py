"""Run nestctl's agent on any machine a Shell reaches: its sources go in through standard input, JSON comes out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nestctl.agent
from nestctl.adapters.shell import Completed, Shell
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, PrerequisiteError

PYTHON_HINT = "Install Python 3.8 or newer there, with its whole standard library (Debian: apt-get install python3)."
COMMAND_NOT_FOUND = 127  # what a POSIX shell answers (POSIX.1-2017, 2.8.2)


def run_agent(shell: Shell, arguments: Sequence[str], *, deadline: Deadline) -> Any:
    """Run a subcommand of the agent on the shell's machine and return what it printed.

    Nothing has to be installed there but Python, and no file is left there.
    Raises `PrerequisiteError` when Python is missing or too old, `FailedError` when the agent does not end well.
    """
    # -I: what lies in the working directory or in PYTHONPATH is not imported; -B: no compiled file is written.
    command = ("python3", "-I", "-B", "-c", _bootstrap(), *arguments)
    completed = shell.run(command, deadline=deadline, stdin=_pack())
    if completed.exit_code != 0:
        raise _explain(completed)
    try:
        return json.loads(completed.stdout)
    except ValueError as error:
        raise FailedError(
            f"The agent on {shell.where} did not answer with JSON but with '{completed.text[:200]}'."
        ) from error


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
    """Return the package as {"agent.module": source}; its imports are relative, so its name may change."""
    names = {"__init__": "agent"}
    modules = sorted(path for path in _sources().glob("*.py") if path.stem != "bootstrap")
    return json.dumps(
        {names.get(path.stem, f"agent.{path.stem}"): path.read_text(encoding="utf-8") for path in modules}
    ).encode()
