"""What is said through one SSH channel: a command with its input, or a conversation."""

from __future__ import annotations

import select
import threading
from contextlib import suppress

import paramiko

from nestctl.adapters.shell import Completed
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, GuestError

_CHUNK_BYTES = 65536


class SshConversation:
    """A program of a guest that is asked (see `Conversation`). `SshShell.converse` starts and ends it."""

    def __init__(self, name: str, channel: paramiko.Channel, command: tuple[str, ...]) -> None:
        self._name = name
        self._channel = channel
        self._command = command
        self._stderr = b""
        self.owes_answer = False

    def ask(self, text: bytes, *, deadline: Deadline) -> bytes:
        """See `Conversation.ask`; no answer comes when the connection is lost, either."""
        self.owes_answer = True
        threading.Thread(target=_feed, args=(self._channel, text), kwargs={"is_last": False}, daemon=True).start()
        answer = b""
        while not answer.endswith(b"\n"):
            deadline.check()
            select.select([self._channel], [], [], min(1.0, deadline.remaining_s))
            if self._channel.recv_ready():
                answer += self._channel.recv(_CHUNK_BYTES)
            elif self._channel.recv_stderr_ready():
                self._stderr += self._channel.recv_stderr(_CHUNK_BYTES)
            elif self._channel.eof_received or self._channel.closed:
                break
        self.owes_answer = False
        return answer if answer.endswith(b"\n") else b""

    def end(self, *, deadline: Deadline) -> Completed:
        """See `Conversation.end`. Raises `GuestError` when the connection is lost."""
        try:
            exit_code, stdout, stderr = exchange(self._channel, b"", deadline)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise GuestError(f"The connection to '{self._name}' was lost while a program ran: {error}.") from error
        return Completed(
            command=self._command,
            where=f"'{self._name}'",
            exit_code=exit_code,
            stdout=stdout,
            stderr=self._stderr + stderr,
        )


def start_command(channel: paramiko.Channel, command: str, deadline: Deadline) -> None:
    """Have the server start a command. Raises `SSHException` when it has not said by the deadline that it will.

    paramiko waits for that answer without an end, and a machine that hangs never gives it.
    """
    timer = threading.Timer(deadline.remaining_s, _close, (channel,))
    timer.daemon = True
    timer.start()
    try:
        channel.exec_command(command)
    finally:
        timer.cancel()


def _close(channel: paramiko.Channel) -> None:
    with suppress(EOFError, OSError, paramiko.SSHException):  # the whole connection may have ended meanwhile
        channel.close()


def exchange(channel: paramiko.Channel, stdin: bytes, deadline: Deadline) -> tuple[int, bytes, bytes]:
    """Send a command its input, read both of its streams, together, to their ends, and wait for its exit code.

    Raises `DeadlineError`, and `KeyboardInterrupt` when the deadline is told to stop: the command then runs on.
    """
    threading.Thread(target=_feed, args=(channel, stdin), daemon=True).start()
    stdout: list[bytes] = []
    stderr: list[bytes] = []
    too_late = DeadlineError(f"A command did not end in time: {deadline.purpose} may take {deadline.timeout_s:.0f} s.")

    def check() -> None:
        if deadline.is_over:
            raise too_late
        deadline.check()

    while not (channel.eof_received or channel.closed) or channel.recv_ready() or channel.recv_stderr_ready():
        check()
        # A channel is readable when data or the end of a stream has come.
        select.select([channel], [], [], min(1.0, deadline.remaining_s))
        if channel.recv_ready():
            stdout.append(channel.recv(_CHUNK_BYTES))
        if channel.recv_stderr_ready():
            stderr.append(channel.recv_stderr(_CHUNK_BYTES))
    # A command may close its streams long before it ends.
    while not channel.status_event.wait(min(1.0, deadline.remaining_s)):
        check()
    exit_code = channel.recv_exit_status()
    # A command without an exit code was ended by a signal, and sshd ended its streams; or the connection is gone.
    if exit_code == -1 and not (channel.eof_received and channel.get_transport().is_active()):
        raise EOFError("it was closed")
    return exit_code, b"".join(stdout), b"".join(stderr)


def _feed(channel: paramiko.Channel, stdin: bytes, *, is_last: bool = True) -> None:
    with suppress(OSError, paramiko.SSHException):  # the command may end without reading all of it
        if stdin:
            channel.sendall(stdin)
        if is_last:
            channel.shutdown_write()
