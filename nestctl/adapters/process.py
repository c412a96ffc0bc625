"""Start processes on this machine. Nothing else in nestctl does."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from nestctl.adapters.shell import Completed
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, PrerequisiteError

log = logging.getLogger(__name__)

# How often a command that can be stopped looks whether it is to stop, in seconds.
_STOP_INTERVAL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class LocalShell:
    """Commands on this machine. Each runs in a process group of its own, which is ended as a whole.

    `stop` ends them from another thread: only the main one is told of Ctrl-C.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    stop: threading.Event | None = None

    @property
    def where(self) -> str:
        return "this machine"

    def run(
        self,
        command: Sequence[str],
        *,
        deadline: Deadline,
        stdin: bytes = b"",
        descriptors: Sequence[int] = (),
    ) -> Completed:
        """Run a command (see `Shell.run`); `descriptors` are open files of ours that it gets too."""
        log.debug("run: %s", shlex.join(command))
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **self.environment},
                start_new_session=True,
                pass_fds=tuple(descriptors),
            )
        except (FileNotFoundError, PermissionError) as error:
            raise _explain(error, command[0]) from error
        with process:
            try:
                stdout, stderr = self._communicate(process, stdin, deadline)
            except subprocess.TimeoutExpired:
                _end_group(process)
                raise DeadlineError(f"'{shlex.join(command)}' did not end within {deadline.timeout_s:.0f} s.") from None
            except BaseException:
                _end_group(process)
                raise
        log.debug("exit code %d: %s", process.returncode, stderr.decode(errors="replace").strip()[-2000:])
        return Completed(
            command=tuple(command),
            where=self.where,
            exit_code=process.returncode,
            stdout=stdout,
            stderr=stderr,
        )

    def _communicate(self, process: subprocess.Popen[bytes], stdin: bytes, deadline: Deadline) -> tuple[bytes, bytes]:
        if self.stop is None:
            return process.communicate(stdin, timeout=deadline.remaining_s)
        given: bytes | None = stdin
        while True:
            try:
                return process.communicate(given, timeout=min(_STOP_INTERVAL_S, deadline.remaining_s))
            except subprocess.TimeoutExpired:
                given = None  # what was not read yet is sent on
                if self.stop.is_set():
                    raise KeyboardInterrupt from None
                if deadline.is_over:
                    raise


def replace_process(command: Sequence[str]) -> NoReturn:
    """Become another program, which then has this process's terminal and gives its exit code.

    Raises `PrerequisiteError` when it is not installed.
    """
    try:
        os.execvp(command[0], list(command))  # noqa: S606
    except (FileNotFoundError, PermissionError) as error:
        raise _explain(error, command[0]) from error


def _explain(error: OSError, program: str) -> PrerequisiteError:
    # A name is said to be closed, too, when a directory in PATH is and no other has it (execvp(3)).
    if isinstance(error, PermissionError) and "/" in program:
        return PrerequisiteError(f"The program '{program}' may not be run: {error.strerror}.")
    return PrerequisiteError(
        f"The program '{program}' is not installed on this machine.",
        hint="Run script/setup in a checkout, or install the package that has it.",
    )


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process with all it started: ask first, then insist after five seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
            return
