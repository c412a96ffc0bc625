from __future__ import annotations

import getpass
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import TalkingShell
from nestctl.adapters.ssh import JumpRoute, SshShell, open_ssh
from nestctl.deadline import Deadline
from nestctl.lab.store import keep_lab
from tests.builders import lab_of_depth
from tests.contract.sshd import Server, start_sshd
from tests.needs import missing, need_program


@pytest.fixture(scope="package")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="package")
def ssh(sshd: Server) -> Iterator[SshShell]:
    with open_ssh("server", sshd.route, sshd.identity, deadline=Deadline.after(30, "Logging in")) as shell:
        yield shell


@pytest.fixture(scope="package")
def jumped(sshd: Server, ssh: SshShell) -> Iterator[SshShell]:
    """The same server, reached through a connection to itself, as a guest inside a guest is."""
    route = JumpRoute(through=ssh, host="127.0.0.1", port=sshd.port)
    with open_ssh("inner", route, sshd.identity, deadline=Deadline.after(30, "Logging in")) as shell:
        yield shell


@pytest.fixture(scope="package")
def by_sudo(ssh: SshShell) -> SshShell:
    """The same server, where every command is run by sudo."""
    program = need_program("sudo", "sudo")
    if subprocess.run((program, "-n", "true"), check=False, capture_output=True).returncode != 0:
        missing("this account may not use sudo without a password")
    return replace(ssh, uses_sudo=True)


@pytest.fixture
def reachable(sshd: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a lab whose guests l1 and l2 answer: both are the server, which is behind itself as l2."""
    need_program("scp", "openssh-client")
    directory = keep_lab(lab_of_depth(2))
    key = directory / "client_key"
    key.touch(mode=0o600)
    key.write_text(sshd.keys.client.private)
    (directory / "known_hosts").write_text(f"server {sshd.keys.hosts['server'].public}\n")
    (directory / "guests.json").write_text('{"guests": []}')
    (directory / "ssh_config").write_text(
        "Host l1 l1.demo\n    HostName 127.0.0.1\n"
        "Host l2 l2.l1.demo\n    HostName 127.0.0.1\n    ProxyJump l1\n"
        f"Host l1 l2 *.demo\n    Port {sshd.port}\n    User {getpass.getuser()}\n    HostKeyAlias server\n"
        f"    UserKnownHostsFile {directory}/known_hosts\n    GlobalKnownHostsFile /dev/null\n"
        f"    IdentityFile {key}\n    IdentitiesOnly yes\n    LogLevel ERROR\n"
    )
    monkeypatch.chdir(tmp_path)
    return directory


@pytest.fixture(params=["local", "stoppable", "ssh", "jumped", "by_sudo"])
def shell(request: pytest.FixtureRequest) -> TalkingShell:
    """Every kind of shell that there is: the tests that take it hold for each."""
    if request.param == "local":
        return LocalShell()
    if request.param == "stoppable":
        return LocalShell(stop=threading.Event())
    found: SshShell = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="package")
def one_directory() -> Iterator[Path]:
    """State and cache of all tests of the embedded driver: libvirt lets a process have it in one directory only.

    And its first look at QEMU, which takes seconds, is kept in the cache.
    """
    with tempfile.TemporaryDirectory(prefix="nt-") as directory:
        yield Path(directory)


@contextmanager
def environment(directory: Path) -> Iterator[None]:
    """Have nestctl's state and cache in a directory."""
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("NESTCTL_STATE", str(directory / "state"))
        variables.setenv("NESTCTL_CACHE", str(directory / "cache"))
        yield
