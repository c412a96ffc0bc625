"""Logging in as the user's own OpenSSH would: a real sshd, a home of the test's own, a real agent."""

from __future__ import annotations

import getpass
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from paramiko import SSHException

from nestctl.adapters.channel import start_command
from nestctl.adapters.ssh_options import Destination
from nestctl.adapters.user_ssh import open_user_ssh
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, UnreachableError, UsageError
from tests.contract.sshd import Server, free_port
from tests.needs import need_program


@pytest.fixture
def home(tmp_path: Path, sshd: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "home"
    sshd.write_home(directory)
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return directory


def log_in(destination: Destination, *, timeout_s: float = 30) -> str:
    with open_user_ssh("it", destination, deadline=Deadline.after(timeout_s, "Logging in")) as shell:
        return shell.run(("echo", "here"), deadline=Deadline.after(30, "It")).text


def configure(home: Path, text: str) -> None:
    (home / ".ssh/config").write_text(text)


def test_a_default_key_and_a_known_host_need_no_configuration(home: Path, sshd: Server) -> None:
    assert log_in(Destination(host="127.0.0.1", port=sshd.port)) == "here"


def test_the_configuration_is_honoured(home: Path, sshd: Server) -> None:
    """An alias, its port, user, key and known name, from a file that is included; what is first said counts."""
    (home / ".ssh/id_ed25519").rename(home / "the key")
    (home / ".ssh/known_hosts").unlink()
    (home / "known").write_text(f"known-as {sshd.keys.hosts['server'].public}\n")
    (home / ".ssh/machines").write_text(
        f"Host box other\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {getpass.getuser()}\n"
        f'  IdentityFile "~/the key"\n  HostKeyAlias known-as\n  UserKnownHostsFile ~/known /dev/null\n'
    )
    configure(home, "Include machines\nHost *\n  Port 1\n  User nobody\n  IdentitiesOnly yes\n")
    assert log_in(Destination(host="box")) == "here"
    with pytest.raises(UnreachableError, match=r"cannot be reached: the name 'boxx\.invalid' is not known"):
        log_in(Destination(host="boxx.invalid"))


def test_a_block_goes_on_after_what_it_includes(home: Path, sshd: Server) -> None:
    (home / ".ssh/machines").write_text("Host elsewhere\n  Port 1\n")
    configure(home, f"Include machines\nPort {sshd.port}\nHost box\n  HostName 127.0.0.1\n")
    assert log_in(Destination(host="box")) == "here"


def test_hops_are_made_as_configured(home: Path, sshd: Server) -> None:
    configure(
        home,
        f"Host one two three\n  HostName 127.0.0.1\n  Port {sshd.port}\n"
        f"Host two\n  ProxyJump one\nHost three\n  ProxyJump {getpass.getuser()}@127.0.0.1:{sshd.port},two\n",
    )
    assert log_in(Destination(host="two")) == "here"
    assert log_in(Destination(host="three")) == "here"


def test_a_proxy_command_is_used(home: Path, sshd: Server) -> None:
    ssh = f"ssh -F /dev/null -o UserKnownHostsFile={home}/.ssh/known_hosts -i {home}/.ssh/id_ed25519 -p {sshd.port}"
    configure(home, f"Host box\n  HostKeyAlias [127.0.0.1]:{sshd.port}\n  ProxyCommand {ssh} -W %h:%p 127.0.0.1\n")
    need_program("ssh", "openssh-client")
    configure(home, (home / ".ssh/config").read_text() + f"  HostName 127.0.0.1\n  Port {sshd.port}\n")
    assert log_in(Destination(host="box")) == "here"


def test_hops_in_a_circle_are_an_error(home: Path) -> None:
    configure(home, "Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    with pytest.raises(UsageError, match="more than 8 hops: ProxyJump goes in a circle"):
        log_in(Destination(host="a"))


def test_settings_come_before_the_configuration_and_a_file_instead_of_it(home: Path, sshd: Server) -> None:
    configure(home, "Host box\n  HostName 127.0.0.1\n  Port 1\n")
    assert log_in(Destination(host="box", settings=(f"Port {sshd.port}",))) == "here"
    other = home / "other"
    other.write_text(f"Host box\n  HostName 127.0.0.1\n  Port {sshd.port}\n")
    assert log_in(Destination(host="box", file=other)) == "here"
    with pytest.raises(UsageError, match="There is no SSH configuration"):
        log_in(Destination(host="box", file=home / "none"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Host box\n  Port seven\n", "names 'seven' as a port"),
        ("Match\n", "cannot be read"),
        ("Include config\n", "is included by itself"),
    ],
)
def test_a_wrong_configuration_is_said(home: Path, text: str, sentence: str) -> None:
    configure(home, text)
    with pytest.raises(UsageError, match=sentence):
        log_in(Destination(host="box"))


def test_an_agent_logs_in(home: Path, sshd: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    key = home / ".ssh/id_ed25519"
    with start_agent(home) as socket_path:
        subprocess.run(
            ("ssh-add", "-q", str(key)), check=True, env={**os.environ, "SSH_AUTH_SOCK": socket_path}, timeout=30
        )
        key.unlink()
        with pytest.raises(UnreachableError, match="does not let"):
            log_in(Destination(host="127.0.0.1", port=sshd.port))
        monkeypatch.setenv("SSH_AUTH_SOCK", socket_path)
        assert log_in(Destination(host="127.0.0.1", port=sshd.port)) == "here"


def test_an_unknown_host_key_is_refused_with_its_fingerprint(home: Path, sshd: Server) -> None:
    known = home / ".ssh/known_hosts"
    known.write_text("")
    with pytest.raises(UnreachableError, match=r"The host key of 'it' is not known: .* ssh-ed25519 SHA256:") as raised:
        log_in(Destination(host="127.0.0.1", port=sshd.port))
    assert f"ssh-keyscan -p {sshd.port} 127.0.0.1 >> {known}" in raised.value.hint
    assert known.read_text() == ""


def test_the_steps_of_the_hint_work(home: Path, sshd: Server) -> None:
    (home / ".ssh/known_hosts").unlink()
    with pytest.raises(UnreachableError) as raised:
        log_in(Destination(host="127.0.0.1", port=sshd.port))
    scan = raised.value.hint[raised.value.hint.index("ssh-keyscan") :]
    subprocess.run(scan, shell=True, check=True, capture_output=True, timeout=30)  # noqa: S602 - as a user pastes it
    assert log_in(Destination(host="127.0.0.1", port=sshd.port)) == "here"


def test_a_changed_host_key_is_refused(home: Path, sshd: Server) -> None:
    known = home / ".ssh/known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {sshd.keys.hosts['other'].public}\n")
    with pytest.raises(UnreachableError, match="The host key of 'it' has changed") as raised:
        log_in(Destination(host="127.0.0.1", port=sshd.port))
    command = re.search(r"ssh-keygen -R '([^']*)'", raised.value.hint)
    assert command
    assert known.read_text().startswith(f"{command[1]} ")


@pytest.mark.parametrize(
    "names",
    [
        "127.0.0.*,other",
        "[127.0.0.?]:*",
        "!127.0.0.9,*",
        "127.0.0.1",  # without the port, as OpenSSH falls back to it
        "hash [127.0.0.1]:{port}",
        "hash 127.0.0.1",
    ],
)
def test_a_host_is_known_by_every_form_of_its_name(home: Path, sshd: Server, names: str) -> None:
    known, key = home / ".ssh/known_hosts", sshd.keys.hosts["server"].public
    name = names.removeprefix("hash ").format(port=sshd.port)
    other = sshd.keys.hosts["other"].public
    others = f"# a comment\n\nelsewhere {other}\n@cert-authority * {other}\n"
    known.write_text(f"{others}{name} {other} its old one\n{name} {key}\nbroken line\n")
    if names.startswith("hash"):
        known.write_text("".join(known.read_text().splitlines(keepends=True)[:-1]))  # ssh-keygen refuses what is broken
        subprocess.run(("ssh-keygen", "-q", "-H", "-f", known), check=True, capture_output=True, timeout=30)
        assert name not in known.read_text()
    assert log_in(Destination(host="127.0.0.1", port=sshd.port)) == "here"


@pytest.mark.parametrize("names", ["!*127.0.0.1*,*", "127.0.0.2", "[127.0.0.1]:22", "127.0.0.1x", "|1|broken|hash="])
def test_a_host_is_not_known_by_names_that_are_not_its_own(home: Path, sshd: Server, names: str) -> None:
    (home / ".ssh/known_hosts").write_text(f"{names} {sshd.keys.hosts['server'].public}\n")
    with pytest.raises(UnreachableError, match="The host key of 'it' is not known"):
        log_in(Destination(host="127.0.0.1", port=sshd.port))


def test_a_revoked_key_is_refused_although_it_is_known(home: Path, sshd: Server) -> None:
    known = home / ".ssh/known_hosts"
    known.write_text(f"{known.read_text()}@revoked * {sshd.keys.hosts['server'].public}\n")
    with pytest.raises(UnreachableError, match="The host key of 'it' is revoked, ssh-ed25519 SHA256:"):
        log_in(Destination(host="127.0.0.1", port=sshd.port))
    known.write_text(f"[127.0.0.1]:{sshd.port} {sshd.keys.hosts['server'].public}\n@revoked other ssh-rsa AAAA\n")
    assert log_in(Destination(host="127.0.0.1", port=sshd.port)) == "here"


def test_of_an_authority_it_is_said_that_it_does_not_count(home: Path, sshd: Server) -> None:
    (home / ".ssh/known_hosts").write_text(f"@cert-authority * {sshd.keys.hosts['other'].public}\n")
    with pytest.raises(UnreachableError, match="certificates of hosts are not understood here"):
        log_in(Destination(host="127.0.0.1", port=sshd.port))


def test_a_key_that_is_refused_or_locked_is_said_and_nothing_is_asked(home: Path, sshd: Server) -> None:
    destination = Destination(host="127.0.0.1", port=sshd.port)
    key = home / ".ssh/id_ed25519"
    subprocess.run(("ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(key)), check=True, timeout=30)
    with pytest.raises(UnreachableError, match="by any key: Private key file is encrypted") as raised:
        log_in(destination)
    assert "ssh-add" in raised.value.hint
    key.unlink()
    with pytest.raises(UnreachableError, match=f"does not let '{getpass.getuser()}' in by any key"):
        log_in(destination)


def test_nobody_listens(home: Path) -> None:
    with pytest.raises(UnreachableError, match=r"cannot be reached \(127.0.0.1 port \d+\): Connection refused"):
        log_in(Destination(host="127.0.0.1", port=free_port()))


def test_silence_is_waited_for_no_longer_than_the_deadline(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DeadlineError, match=r"within 0\.5 s"):
        log_in(Destination(host="127.0.0.1", port=silent.getsockname()[1]), timeout_s=0.5)


def test_a_machine_that_hangs_holds_no_command_longer_than_the_deadline(home: Path, sshd: Server) -> None:
    """Its server takes no more part: the connection stands, and nothing that is asked is answered."""
    destination = Destination(host="127.0.0.1", port=sshd.port)
    with open_user_ssh("it", destination, deadline=Deadline.after(30, "Logging in")) as shell:
        server = int(shell.run(("sh", "-c", "echo $PPID"), deadline=Deadline.after(30, "It")).text)
        channel = shell.transport.open_session(timeout=30)
        os.kill(server, signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineError, match=r"within 0\.3 s"):
                shell.run(("true",), deadline=Deadline.after(0.3, "It"))
            # That was the opening of a channel; what follows it is waited for no longer either.
            with pytest.raises(SSHException):
                start_command(channel, "true", Deadline.after(0.3, "It"))
        finally:
            os.kill(server, signal.SIGCONT)


def test_a_connection_that_ends_as_the_time_does_is_an_error_and_no_traceback(
    home: Path, sshd: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gives the command up is another thread, and what it raises nobody catches. paramiko raises what is here."""

    def lose(_message: object) -> None:
        given_up.wait(30)
        raise EOFError

    destination = Destination(host="127.0.0.1", port=sshd.port)
    with open_user_ssh("it", destination, deadline=Deadline.after(30, "Logging in")) as shell:
        channel = shell.transport.open_session(timeout=30)
        given_up = threading.Barrier(2)
        monkeypatch.setattr(shell.transport, "_send_user_message", lose)
        with pytest.raises(EOFError):
            start_command(channel, "true", Deadline.after(0.05, "It"))


@contextmanager
def start_agent(directory: Path) -> Iterator[str]:
    path = f"/tmp/nt-agent-{os.getpid()}"
    said = subprocess.run(
        (need_program("ssh-agent", "openssh-client"), "-s", "-a", path),
        check=True,
        capture_output=True,
        text=True,
        cwd=directory,
        timeout=30,
    ).stdout
    found = re.search(r"SSH_AGENT_PID=(\d+)", said)
    assert found
    try:
        yield path
    finally:
        os.kill(int(found[1]), signal.SIGTERM)
