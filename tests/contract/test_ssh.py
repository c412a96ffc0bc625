"""What is SSH's own: who answers, who is let in, and what happens when the connection breaks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.adapters.ssh import DirectRoute, JumpRoute, Route, SshShell, open_ssh
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, GuestError, PrerequisiteError
from nestctl.lab.keys import ensure_keys
from nestctl.lab.level import Level
from nestctl.lab.plan import Contact
from nestctl.lab.ssh_access import open_guest
from tests.contract.sshd import Server, free_port, start_sshd
from tests.fakes import FakeHypervisor, World


def soon() -> Deadline:
    return Deadline.after(30, "Logging in")


@pytest.fixture(params=["direct", "jump"])
def route(request: pytest.FixtureRequest, sshd: Server) -> Route:
    if request.param == "direct":
        return sshd.route
    return JumpRoute(through=request.getfixturevalue("ssh"), host="127.0.0.1", port=sshd.port)


@pytest.fixture(params=["direct", "jump"])
def closed_route(request: pytest.FixtureRequest) -> Route:
    if request.param == "direct":
        return DirectRoute(host="127.0.0.1", port=free_port())
    return JumpRoute(through=request.getfixturevalue("ssh"), host="127.0.0.1", port=free_port())


def test_another_machines_host_key_is_refused(sshd: Server, route: Route) -> None:
    identity = replace(sshd.identity, host_key=sshd.keys.hosts["other"].public)
    with (
        pytest.raises(GuestError, match="Another machine answers in place of 'server': its host key is") as raised,
        open_ssh("server", route, identity, deadline=soon()),
    ):
        pytest.fail("logged in to another machine")
    assert "nestctl down" in raised.value.hint


def test_a_key_that_is_refused_is_said(sshd: Server, route: Route, tmp_path: Path) -> None:
    stranger = ensure_keys(tmp_path / "keys.json", [])
    identity = replace(sshd.identity, client_key=stranger.client.private)
    with (
        pytest.raises(GuestError, match="'server' refused the lab's key"),
        open_ssh("server", route, identity, deadline=soon()),
    ):
        pytest.fail("logged in with a stranger's key")


def test_a_machine_that_forwards_nothing_is_told_from_one_where_nobody_listens(ssh: SshShell, tmp_path: Path) -> None:
    ssh.expect_forwarding(soon())
    with (
        start_sshd(tmp_path, settings="AllowTcpForwarding no") as server,
        open_ssh("server", server.route, server.identity, deadline=soon()) as shell,
        pytest.raises(PrerequisiteError, match="'server' forwards no connections for"),
    ):
        shell.expect_forwarding(soon())


def test_nobody_listens(sshd: Server, closed_route: Route) -> None:
    deadline = Deadline.after(0.5, "An answer from the guest 'l1'")
    with (
        pytest.raises(DeadlineError, match="An answer from the guest 'l1' did not happen within"),
        open_ssh("l1", closed_route, sshd.identity, deadline=deadline),
    ):
        pytest.fail("logged in where nobody listens")


def test_one_that_never_greets_is_waited_for_no_longer_than_the_deadline(sshd: Server) -> None:
    """QEMU's user-mode network accepts connections long before its guest does."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        route = DirectRoute(host="127.0.0.1", port=silent.getsockname()[1])
        with pytest.raises(DeadlineError), open_ssh("l1", route, sshd.identity, deadline=Deadline.after(0.6, "It")):
            pytest.fail("logged in to silence")


@pytest.mark.parametrize("is_ready", [True, False])
def test_one_that_is_ready_is_asked_once(is_ready: bool, sshd: Server) -> None:
    """Each time, a guest starts a process for the one that asks, and may be slow at it."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        route = DirectRoute(host="127.0.0.1", port=silent.getsockname()[1])
        deadline = Deadline.after(1.5, "It")
        with pytest.raises(DeadlineError), open_ssh("l1", route, sshd.identity, deadline=deadline, is_ready=is_ready):
            pytest.fail("logged in to silence")
        assert (count_waiting(silent) == 1) is is_ready


def count_waiting(listener: socket.socket) -> int:
    listener.settimeout(0.1)
    asked = 0
    with suppress(TimeoutError):
        while True:
            listener.accept()[0].close()
            asked += 1
    return asked


def test_a_guest_that_runs_is_asked_once_however_slowly_it_greets(tmp_path: Path) -> None:
    """An l3 under emulation greets after seconds, and each time that it was asked again it was a minute later."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        contact = Contact(
            lab="demo",
            name="l1",
            level=1,
            domain="demo-l1",
            address="",
            port=silent.getsockname()[1],
            console=PurePosixPath(tmp_path / "console"),
        )
        level = Level(shell=LocalShell(), hypervisor=FakeHypervisor("L0", World()))
        keys = ensure_keys(tmp_path / "keys.json", ["l1"])
        with pytest.raises(DeadlineError), open_guest(level, contact, keys, Deadline.after(1.5, "It")):
            pytest.fail("logged in to silence")
        assert count_waiting(silent) == 1


def test_one_that_speaks_something_else_is_waited_for_as_well(sshd: Server) -> None:
    with start_greeter(b"220 mail.example ESMTP\r\n") as port:
        route = DirectRoute(host="127.0.0.1", port=port)
        with pytest.raises(DeadlineError), open_ssh("l1", route, sshd.identity, deadline=Deadline.after(0.6, "It")):
            pytest.fail("logged in to a mail server")


@pytest.mark.slow
def test_a_guest_that_is_dead_is_not_waited_for(sshd: Server) -> None:
    closed_route = DirectRoute(host="127.0.0.1", port=free_port())

    def check_alive() -> None:
        raise GuestError("It has stopped.")

    with (
        pytest.raises(GuestError, match="It has stopped"),
        open_ssh("l1", closed_route, sshd.identity, deadline=Deadline.after(60, "It"), check_alive=check_alive),
    ):
        pytest.fail("logged in to a dead guest")


def test_a_connection_that_is_lost_is_said(sshd: Server) -> None:
    with open_ssh("server", sshd.route, sshd.identity, deadline=soon()) as shell:
        assert shell.run(("true",), deadline=soon()).exit_code == 0
        shell.transport.close()
        with pytest.raises(GuestError, match="The connection to 'server' was lost"):
            shell.run(("true",), deadline=soon())


def test_a_connection_that_is_lost_while_a_command_runs_is_said(sshd: Server) -> None:
    with (
        open_ssh("server", sshd.route, sshd.identity, deadline=soon()) as shell,
        pytest.raises(GuestError, match="was lost while a command ran"),
    ):
        # The command ends the server's process that its own connection has, the parent of its shell.
        shell.run(("sh", "-c", "kill -9 $PPID"), deadline=soon())


def test_a_lost_connection_is_not_jumped_through(sshd: Server) -> None:
    with open_ssh("server", sshd.route, sshd.identity, deadline=soon()) as shell:
        shell.transport.close()
        route = JumpRoute(through=shell, host="127.0.0.1", port=sshd.port)
        with (
            pytest.raises(GuestError, match="The connection to 'server' was lost"),
            open_ssh("inner", route, sshd.identity, deadline=soon()),
        ):
            pytest.fail("jumped through a lost connection")


def test_a_socket_here_is_a_command_there(ssh: SshShell) -> None:
    """As libvirt's protocol goes through virt-ssh-helper: `cat` gives back what it is given."""
    content = bytes(range(256)) * 1024
    with ssh.open_socket_to(("cat",)) as path:
        assert path.parent.stat().st_mode & 0o077 == 0
        assert exchange(path, content) == content
        assert exchange(path, b"a second connection") == b"a second connection"
    assert not path.parent.exists()


def test_the_end_of_the_command_is_the_end_of_the_connection(ssh: SshShell) -> None:
    with ssh.open_socket_to(("printf", "%s", "one word")) as path, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        assert b"".join(iter(lambda: client.recv(65536), b"")) == b"one word"


def test_a_command_that_is_missing_there_closes_the_connection(ssh: SshShell) -> None:
    with ssh.open_socket_to(("nestctl-no-such",)) as path, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        assert client.recv(1) == b""


def exchange(path: Path, content: bytes) -> bytes:
    """Send through a socket, and read as much as was sent."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        sender = threading.Thread(target=client.sendall, args=(content,))
        sender.start()
        received = b""
        while len(received) < len(content) and (chunk := client.recv(65536)):
            received += chunk
        sender.join()
        return received


@contextmanager
def start_greeter(greeting: bytes) -> Iterator[int]:
    """Listen, and greet everybody with the same bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(greeting)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_the_end_of_a_command_never_ends_the_connection(ssh: SshShell) -> None:
    """Commands that end while their input is sent: what comes after a channel's close ends the connection (OpenSSH)."""
    deadline = Deadline.after(60, "Running commands")
    with ThreadPoolExecutor(max_workers=8) as pool:
        waiting = [pool.submit(ssh.run, ("true",), deadline=deadline, stdin=bytes(n * 1000)) for n in range(200)]
        assert {future.result().exit_code for future in waiting} == {0}
    assert ssh.transport.is_active()
