"""Speak SSH: to a forwarded port of this machine, or through one guest to the next. Nothing else in nestctl does.

A guest's host key is known before it first boots (nestctl made it), so it is checked from the first connection on.
"""

from __future__ import annotations

import io
import logging
import os
import re
import secrets
import select
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import paramiko

from nestctl.adapters.channel import SshConversation, exchange, start_command
from nestctl.adapters.shell import Completed, Conversation
from nestctl.adapters.sockets import SOCKETS, remove_stale_sockets
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, GuestError, PrerequisiteError

log = logging.getLogger(__name__)
logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what it says of failed tries, we say ourselves

Stream = socket.socket | paramiko.Channel

# How long one try waits for sshd's greeting. It grows from try to try: QEMU's user-mode network accepts a connection
# long before the guest does, so early tries must be short, while a slow guest needs seconds to greet.
# One that is ready gets more at once: with each try its sshd starts a process, which makes the next greeting later.
_FIRST_GREETING_S = 0.4
_READY_GREETING_S = 8.0
_GREETING_GROWTH = 1.1
_LONGEST_GREETING_S = 30.0

# How often a guest that does not answer is asked after.
_CHECK_INTERVAL_S = 2.0

_CHUNK_BYTES = 65536

# sshd ends nothing when a session is closed. What a command started is found by the variable $1 in its environment;
# it is asked to end, and a second later made to.
_END_COMMAND = """
find_it() { grep -alsF -e "$1" /proc/[0-9]*/environ | cut -d / -f 3; }
for signal in TERM KILL; do
    kill -s $signal $(find_it "$1") 2> /dev/null
    for try in 1 2 3 4 5 6 7 8 9 10; do [ -n "$(find_it "$1")" ] || exit 0; sleep 0.1; done
done
"""
_END_S = 10.0
_START_S = 60.0


# Where nothing listens (TCPMUX): a refusal there is the machine's, not its sshd's.
_NOBODYS_PORT = 1

# Messages that name a channel of the server's in their first four bytes (RFC 4254, section 9).
_CHANNEL_MESSAGES = range(93, 99)
_CHANNEL_CLOSE = 97


class Transport(paramiko.Transport):
    """Sends nothing more to a channel once its close is sent, for which OpenSSH's server ends the whole connection.

    paramiko lets go of a channel's lock between making a message and sending it, so that a thread that feeds a command
    can be overtaken by the close that answers the command's end.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._closed: set[int] = set()

    def open_channel(self, *arguments: Any, **options: Any) -> paramiko.Channel:
        """Open a channel; see paramiko's."""
        channel = super().open_channel(*arguments, **options)
        self._closed.discard(channel.remote_chanid)  # the server uses its numbers again
        return channel

    def _send_message(self, data: paramiko.Message) -> None:
        # Called with the lock that puts the messages of all threads in an order.
        content = data.asbytes()
        if content[0] in _CHANNEL_MESSAGES:
            number = int.from_bytes(content[1:5], "big")
            if number in self._closed:
                return
            if content[0] == _CHANNEL_CLOSE:
                self._closed.add(number)
        super()._send_message(data)  # type: ignore[misc]  # not in the stubs


class Route(Protocol):
    """A way to a guest's SSH port."""

    def open_stream(self, timeout_s: float) -> Stream:
        """Connect once. Raises `OSError` or `paramiko.SSHException` when nobody answers."""


@dataclass(frozen=True, kw_only=True)
class DirectRoute:
    """A port that this machine reaches."""

    host: str
    port: int

    def open_stream(self, timeout_s: float) -> Stream:
        """Connect by TCP. Raises `OSError` when nobody answers."""
        stream = socket.create_connection((self.host, self.port), timeout=timeout_s)
        # Else a small request waits until the one before it is acknowledged: 40 ms a command (tcp(7), TCP_NODELAY).
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return stream


@dataclass(frozen=True, kw_only=True)
class JumpRoute:
    """A port that another guest reaches: one more hop, as OpenSSH's ProxyJump makes it."""

    through: SshShell
    host: str
    port: int = 22

    def open_stream(self, timeout_s: float) -> Stream:
        """Have the other guest connect. Raises `paramiko.SSHException` when it cannot."""
        return self.through.transport.open_channel(
            "direct-tcpip", (self.host, self.port), ("127.0.0.1", 0), timeout=timeout_s
        )


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who logs in, and whom to expect: OpenSSH texts of the client's private and the guest's public key."""

    user: str
    client_key: str
    host_key: str


@dataclass(frozen=True, kw_only=True)
class SshShell:
    """Commands on a guest, one channel each over a connection that stays open; by sudo where `as_root` says so."""

    name: str
    transport: paramiko.Transport
    uses_sudo: bool = False

    @property
    def where(self) -> str:
        """What messages call it: the guest's name."""
        return self.name

    def as_root(self, deadline: Deadline) -> SshShell:
        """Return the same connection with root's commands, by sudo where another account is logged in.

        Raises `PrerequisiteError` when that account may not become root without being asked.
        """
        account = self.transport.get_username()
        if account == "root":
            return self
        shell = replace(self, uses_sudo=True)
        completed = shell.run(("true",), deadline=deadline)
        if completed.exit_code != 0:
            said = completed.stderr.decode(errors="replace").strip() or f"exit code {completed.exit_code}"
            raise PrerequisiteError(
                f"The account '{account}' of '{self.name}' may not become root there: {said.splitlines()[-1]}.",
                hint="Log in as root, or let the account use sudo without a password (NOPASSWD, for any command).",
            )
        return shell

    def expect_forwarding(self, deadline: Deadline) -> None:
        """Raise `PrerequisiteError` when sshd there forwards no connections, by which guests inside are reached."""
        try:
            JumpRoute(through=self, host="127.0.0.1", port=_NOBODYS_PORT).open_stream(deadline.remaining_s).close()
        except paramiko.ChannelException as error:
            if error.code == paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED:
                raise PrerequisiteError(
                    f"'{self.name}' forwards no connections for '{self.transport.get_username()}', and guests inside "
                    "are reached through it.",
                    hint="Set 'AllowTcpForwarding local' for that account in its sshd_config, and no PermitOpen.",
                ) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise GuestError(f"The connection to '{self.name}' was lost: {error}.") from error

    def _render(self, command: Sequence[str], mark: str = "") -> str:
        """Render a command for the account's shell; a `mark` (NAME=VALUE) is in its environment, not in sudo's."""
        text = shlex.join(command)
        if not self.uses_sudo:
            return f"{mark} {text}" if mark else text
        # sudo adds the account's umask to its own, and what root makes for QEMU's account has to be open to it.
        return shlex.join(("sudo", "-n", "sh", "-c", f"umask 022; {f'export {mark}; ' if mark else ''}exec {text}"))

    def run(self, command: Sequence[str], *, deadline: Deadline, stdin: bytes = b"") -> Completed:
        """Run a command (see `Shell.run`); its environment has NESTCTL_RUN, by which it is found when it is to end."""
        log.debug("run on %s: %s", self.name, shlex.join(command))
        deadline.check()
        mark = f"NESTCTL_RUN={secrets.token_hex(8)}"
        try:
            with self.transport.open_session(timeout=deadline.remaining_s) as channel:
                start_command(channel, self._render(command, mark), deadline)
                exit_code, stdout, stderr = exchange(channel, stdin, deadline)
        except (paramiko.SSHException, EOFError, OSError) as error:
            deadline.check()
            raise GuestError(f"The connection to '{self.name}' was lost while a command ran: {error}.") from error
        except DeadlineError:
            self._end(mark)
            raise
        except KeyboardInterrupt:
            self._end(mark, waits=False)  # the user does not, either
            raise
        if exit_code == 127 and _says_missing(command[0], stderr.decode(errors="replace")):
            raise PrerequisiteError(f"The program '{command[0]}' is not installed on '{self.name}'.")
        log.debug("exit code %d: %s", exit_code, stderr.decode(errors="replace").strip()[-2000:])
        return Completed(
            command=tuple(command), where=f"'{self.name}'", exit_code=exit_code, stdout=stdout, stderr=stderr
        )

    @contextmanager
    def converse(self, command: Sequence[str]) -> Iterator[Conversation]:
        """Start a program that stays (see `TalkingShell.converse`)."""
        log.debug("run on %s, to be asked: %s", self.name, shlex.join(command))
        mark = f"NESTCTL_RUN={secrets.token_hex(8)}"
        deadline = Deadline.after(_START_S, f"Starting '{command[0]}' on '{self.name}'")
        try:
            channel = self.transport.open_session(timeout=deadline.remaining_s)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise GuestError(f"The connection to '{self.name}' was lost: {error}.") from error
        with channel:
            conversation = SshConversation(self.name, channel, tuple(command))
            try:
                try:
                    start_command(channel, self._render(command, mark), deadline)
                except (paramiko.SSHException, EOFError, OSError) as error:
                    raise GuestError(f"'{self.name}' does not start '{command[0]}': {error}.") from error
                yield conversation
            finally:
                if conversation.owes_answer:
                    self._end(mark)

    def _end(self, mark: str, *, waits: bool = True) -> None:
        failures = suppress(DeadlineError, OSError, EOFError, paramiko.SSHException)
        with failures, self.transport.open_session(timeout=_END_S) as channel:
            deadline = Deadline.after(_END_S, "Ending a command")
            start_command(channel, self._render(("sh", "-c", _END_COMMAND, "sh", mark)), deadline)
            if waits:
                exchange(channel, b"", deadline)

    @contextmanager
    def open_socket_to(self, command: Sequence[str]) -> Iterator[Path]:
        """Make a UNIX socket of this machine whose every connection is one run of a command on the guest.

        The socket lies in a directory only this account can enter; both are gone afterwards.
        """
        remove_stale_sockets()
        prefix = f"{SOCKETS}{os.getpid()}-"
        with TemporaryDirectory(prefix=prefix) as directory, socket.socket(socket.AF_UNIX) as listener:
            path = Path(directory) / "socket"
            listener.bind(str(path))
            listener.listen()
            threading.Thread(target=self._serve, args=(listener, command), daemon=True).start()
            try:
                yield path
            finally:
                with suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)

    def _serve(self, listener: socket.socket, command: Sequence[str]) -> None:
        with suppress(OSError):  # raised by accept() when the listener is closed: the end
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._bridge, args=(connection, command), daemon=True).start()

    def _bridge(self, connection: socket.socket, command: Sequence[str]) -> None:
        failures = suppress(OSError, EOFError, paramiko.SSHException)
        with failures, connection, self.transport.open_session() as channel:
            channel.exec_command(self._render(command))
            ends = (connection.fileno(), channel.fileno())
            while True:
                readable, _, _ = select.select(ends, [], [])
                if connection.fileno() in readable:
                    if not (chunk := connection.recv(_CHUNK_BYTES)):
                        return
                    channel.sendall(chunk)
                if channel.recv_stderr_ready():
                    log.debug("%s says: %r", command[0], channel.recv_stderr(_CHUNK_BYTES))
                if channel.recv_ready():
                    connection.sendall(channel.recv(_CHUNK_BYTES))
                elif channel.eof_received or channel.closed:
                    return


@contextmanager
def open_ssh(
    name: str,
    route: Route,
    identity: Identity,
    *,
    deadline: Deadline,
    is_ready: bool = False,
    check_alive: Callable[[], None] = lambda: None,
) -> Iterator[SshShell]:
    """Wait until a guest's SSH server answers, log in, and close the connection in the end.

    One that `is_ready` listens already: its greeting is waited for, however slow, and not asked for again and again.
    `check_alive` is called now and then while nobody answers; what it raises ends the wait.
    Raises `DeadlineError` when it never answers, and `GuestError` when another machine answers or the key is refused.
    """
    greeting_s = _READY_GREETING_S if is_ready else _FIRST_GREETING_S
    transport = _connect(name, route, identity, deadline, check_alive, greeting_s)
    try:
        yield SshShell(name=name, transport=transport)
    finally:
        transport.close()


def _connect(
    name: str,
    route: Route,
    identity: Identity,
    deadline: Deadline,
    check_alive: Callable[[], None],
    greeting_s: float,
) -> paramiko.Transport:
    next_check_s = time.monotonic() + _CHECK_INTERVAL_S
    for _ in deadline.poll(interval_s=0.05):
        if time.monotonic() >= next_check_s:
            check_alive()
            next_check_s = time.monotonic() + _CHECK_INTERVAL_S
        try:
            stream = route.open_stream(min(greeting_s + 2, deadline.remaining_s + 0.1))
        except (OSError, paramiko.SSHException) as error:
            if isinstance(route, JumpRoute) and not route.through.transport.is_active():
                raise GuestError(f"The connection to '{route.through.name}' was lost.") from error
            continue
        if not select.select([stream], [], [], min(greeting_s, deadline.remaining_s))[0]:
            stream.close()
            greeting_s = min(greeting_s * _GREETING_GROWTH, _LONGEST_GREETING_S)
            continue
        transport = Transport(stream)
        try:
            _log_in(transport, name, identity, deadline)
        except (paramiko.SSHException, EOFError, OSError) as error:
            transport.close()
            if isinstance(error, paramiko.AuthenticationException):
                raise GuestError(f"'{name}' refused the lab's key: {error}.") from error
            log.debug("%s does not answer yet: %s", name, error)
            continue
        except BaseException:
            transport.close()
            raise
        return transport
    raise AssertionError("a deadline ends by raising")


def _log_in(transport: paramiko.Transport, name: str, identity: Identity, deadline: Deadline) -> None:
    kind, _, expected = identity.host_key.partition(" ")
    # A key of RSA signs with SHA-2 (RFC 8332).
    transport.get_security_options().key_types = ("rsa-sha2-512", "rsa-sha2-256") if kind == "ssh-rsa" else (kind,)
    transport.start_client(timeout=max(deadline.remaining_s, 1))
    key = transport.get_remote_server_key()
    if key.get_base64() != expected.split()[0]:
        raise GuestError(
            f"Another machine answers in place of '{name}': its host key is {key.fingerprint}.",
            hint="See what listens there with 'ss -ltnp'; 'nestctl down' and 'nestctl up' make the guest anew.",
        )
    transport.auth_publickey(identity.user, paramiko.Ed25519Key.from_private_key(io.StringIO(identity.client_key)))
    transport.set_keepalive(15)


def _says_missing(program: str, said: str) -> bool:
    """Tell whether a guest's shell said that the program itself is missing, not one that it runs."""
    return bool(re.search(rf": {re.escape(program)}: ((command )?not found|No such file)", said))
