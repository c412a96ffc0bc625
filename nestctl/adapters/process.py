"""Start processes on this machine. Nothing else in nestctl does."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shlex
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, NoReturn

from nestctl.adapters.shell import Completed, Conversation
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, PrerequisiteError

log = logging.getLogger(__name__)

# How often a command that can be stopped, or an answer that is waited for, looks whether it is to stop, in seconds.
_STOP_INTERVAL_S = 0.2

_CHUNK_BYTES = 65536
_LAST_S = 5.0  # how long a program that stayed may take to end after its input has


@dataclass(frozen=True, kw_only=True)
class LocalShell:
    """Commands on this machine. Each runs in a process group of its own, which is ended as a whole.

    `stop`, or that of a command's deadline, ends them from another thread: only the main one is told of Ctrl-C.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    stop: threading.Event | None = None

    @property
    def where(self) -> str:
        """What messages call it."""
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

    @contextlib.contextmanager
    def converse(self, command: Sequence[str]) -> Iterator[Conversation]:
        """Start a program that stays (see `TalkingShell.converse`)."""
        log.debug("run, to be asked: %s", shlex.join(command))
        with tempfile.TemporaryFile() as stderr:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env={**os.environ, **self.environment},
                    start_new_session=True,
                    bufsize=0,
                )
            except (FileNotFoundError, PermissionError) as error:
                raise _explain(error, command[0]) from error
            conversation = LocalConversation(process, command, stderr)
            with process:
                try:
                    yield conversation
                    if process.poll() is None and not conversation.owes_answer:
                        with contextlib.suppress(DeadlineError):
                            conversation.end(deadline=Deadline.after(_LAST_S, f"The end of '{command[0]}'"))
                finally:
                    _end_group(process)

    def _communicate(self, process: subprocess.Popen[bytes], stdin: bytes, deadline: Deadline) -> tuple[bytes, bytes]:
        stops = [it for it in (self.stop, deadline.stop) if it]
        if not stops:
            return process.communicate(stdin, timeout=deadline.remaining_s)
        given: bytes | None = stdin
        while True:
            try:
                return process.communicate(given, timeout=min(_STOP_INTERVAL_S, deadline.remaining_s))
            except subprocess.TimeoutExpired:
                given = None  # what was not read yet is sent on
                if any(it.is_set() for it in stops):
                    raise KeyboardInterrupt from None
                if deadline.is_over:
                    raise


class LocalConversation:
    """A program of this machine that is asked (see `Conversation`). `LocalShell.converse` starts and ends it."""

    def __init__(self, process: subprocess.Popen[bytes], command: Sequence[str], stderr: IO[bytes]) -> None:
        self._process = process
        self._command = tuple(command)
        self._stderr = stderr
        self._into, self._out = (stream.fileno() for stream in (process.stdin, process.stdout) if stream)
        self.owes_answer = False

    def ask(self, text: bytes, *, deadline: Deadline) -> bytes:
        """See `Conversation.ask`."""
        self.owes_answer = True
        answer, left = bytearray(), memoryview(text)
        while not answer.endswith(b"\n"):
            deadline.check()
            wait_s = min(_STOP_INTERVAL_S, deadline.remaining_s) if deadline.stop else deadline.remaining_s
            readable, writable, _ = select.select([self._out], [self._into] if left else [], [], wait_s)
            if writable:
                try:
                    # So much can be written without waiting (pipe(7)).
                    left = left[os.write(self._into, left[: select.PIPE_BUF]) :]
                except BrokenPipeError:
                    left = left[:0]
            if readable:
                chunk = os.read(self._out, _CHUNK_BYTES)
                if not chunk:
                    return b""
                answer += chunk
        self.owes_answer = False
        return bytes(answer)

    def end(self, *, deadline: Deadline) -> Completed:
        """See `Conversation.end`; what the program still says is collected."""
        try:
            stdout, _ = self._process.communicate(timeout=deadline.remaining_s)
        except subprocess.TimeoutExpired:
            raise DeadlineError(f"'{shlex.join(self._command)}' did not end in time.") from None
        self._stderr.seek(0)
        return Completed(
            command=self._command,
            where="this machine",
            exit_code=self._process.returncode,
            stdout=stdout,
            stderr=self._stderr.read(),
        )


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
    """End a process with all it started, unless it was waited for: ask first, then insist after five seconds."""
    # One that has ended, and was not waited for, keeps the group's number, in which others may run on.
    if process.returncode is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
            return
