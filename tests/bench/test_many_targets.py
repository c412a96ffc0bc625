"""Two hundred machines over SSH: what they cost in time and memory, and that broken ones cost the others nothing.

They are 13 sshd processes under 16 loopback addresses each, and answer as machines that are far away or slow do: their
Python begins after a wait, so that it is not the two cores of this machine that are measured.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.sshd import Server, free_port, start_sshd
from tests.nested.harness import NESTCTL

# sshd listens on at most 16 addresses (MAX_LISTEN_SOCKS).
ADDRESSES = [f"127.8.0.{number}" for number in range(1, 17)]
SERVERS = 13
WAIT_S = 4.0
BROKEN_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class Run:
    """One `nestctl check` of many targets, as the kernel accounts for it."""

    targets: int
    jobs: int
    elapsed_s: float
    peak_mib: float
    reached: int
    exit_code: int

    @property
    def slot_s(self) -> float:
        """What a target costs one of the workers."""
        return self.elapsed_s * self.jobs / self.targets

    def __str__(self) -> str:
        return (
            f"{self.targets} targets, {self.jobs} at once: {self.elapsed_s:.1f} s "
            f"({self.slot_s:.2f} s of a worker each), peak {self.peak_mib:.0f} MiB, {self.reached} reached"
        )


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """208 targets that answer; HOME is that of an account that may log in to all of them."""
    directory = tmp_path_factory.mktemp("many")
    python = directory / "python3"
    python.write_text(f'#!/bin/sh\nsleep {WAIT_S}\nexec /usr/bin/python3 "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as variables:
        servers = []
        for number in range(SERVERS):
            place = directory / str(number)
            place.mkdir()
            settings = f"SetEnv HOME={place} PATH={directory}:/usr/bin:/bin"
            servers.append(stack.enter_context(start_sshd(place, addresses=ADDRESSES, settings=settings)))
        _write_home(directory / "home", servers)
        variables.setenv("HOME", str(directory / "home"))
        variables.delenv("SSH_AUTH_SOCK", raising=False)
        yield [f"ssh://{address}:{server.port}" for address in ADDRESSES for server in servers]


def _write_home(home: Path, servers: list[Server]) -> None:
    """Let one account into servers that each have keys of their own."""
    ssh = home / ".ssh"
    ssh.mkdir(mode=0o700, parents=True)
    key = ssh / "id_ed25519"
    key.touch(mode=0o600)
    key.write_text(servers[0].keys.client.private)
    known = []
    for server in servers:
        known += [f"[{address}]:{server.port} {server.keys.hosts['server'].public}\n" for address in ADDRESSES]
        (server.directory / "authorized_keys").write_text(f"{servers[0].keys.client.public}\n")
    (ssh / "known_hosts").write_text("".join(known))


def check(targets: list[str], *, jobs: int) -> Run:
    """Check targets, of which every tenth is one that nobody listens at."""
    nobody = free_port()
    named = [
        f"ssh://127.9.0.{number % 250 + 1}:{nobody}" if number % BROKEN_EVERY == BROKEN_EVERY - 1 else target
        for number, target in enumerate(targets)
    ]
    assert len(set(named)) == len(named)
    command = (NESTCTL, "check", "--passive", "--json", "--jobs", str(jobs), *named)
    begun_s = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        document = json.load(process.stdout)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    elapsed_s = time.monotonic() - begun_s
    # One target is reported as this machine is, several as a list.
    items = document["targets"] if len(named) > 1 else [{"target": named[0], "report": document}]
    assert [item["target"] for item in items] == named
    reached = [item["report"] is not None for item in items]
    assert reached == [number % BROKEN_EVERY != BROKEN_EVERY - 1 for number in range(len(named))]
    return Run(
        targets=len(named),
        jobs=jobs,
        elapsed_s=elapsed_s,
        peak_mib=usage.ru_maxrss / 1024,
        reached=sum(reached),
        exit_code=process.returncode,
    )


def test_two_hundred_targets(targets: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    one = check(targets[:1], jobs=1)
    runs = [check(targets[:40], jobs=10), check(targets[:40], jobs=20), check(targets[:200], jobs=20)]
    with capsys.disabled():
        print()  # noqa: T201
        for run in (one, *runs):
            print(run)  # noqa: T201
    # Time grows as targets divided by workers: a worker has as much to do for each, however many of both there are.
    assert max(run.slot_s for run in runs) <= 1.35 * min(run.slot_s for run in runs)
    assert max(run.peak_mib for run in runs) <= 1.5 * one.peak_mib
    assert {run.exit_code for run in runs} == {3}  # some could not be reached
