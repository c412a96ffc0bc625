from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Shell
from nestctl.adapters.ssh import JumpRoute, SshShell, open_ssh
from nestctl.deadline import Deadline
from tests.contract.sshd import Server, start_sshd


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


@pytest.fixture(params=["local", "ssh", "jumped"])
def shell(request: pytest.FixtureRequest) -> Shell:
    """Every kind of shell that there is: the tests that take it hold for each."""
    if request.param == "local":
        return LocalShell()
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
