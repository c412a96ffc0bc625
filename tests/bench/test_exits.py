"""What an exit costs, by nestctl's agent and by a C program of its own that asks the same of /dev/kvm, in turn.

What else a machine does can only make a run slower, so the fastest of many short runs are compared: they agree on a
busy machine too. What nestctl reports is the median, so the medians are compared as well, and those want a machine that
does nothing else.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nestctl.adapters.agent import run_agent
from nestctl.adapters.shell import Shell
from nestctl.deadline import Deadline
from nestctl.image.store import Image
from nestctl.lab.remove import down
from nestctl.lab.session import open_levels
from nestctl.lab.store import find_lab
from nestctl.model.samples import parse_measurement
from tests.nested.harness import Lab, give_one_cpu

SOURCE = Path(__file__).parent / "exits.c"
WORKLOADS = ("cpuid_exit", "hypercall_exit", "port_user_exit")
ROUNDS = 6
TARGET_MS = 100  # as bench does. QEMU's TCG flushes its TLB with each exit, and fits its size to what 100 ms used
SAMPLES = 6
TOLERANCE = 0.10

Costs = Mapping[str, list[float]]  # of one visit, in nanoseconds per operation

_RUN = 'cat > "$0" && chmod 700 "$0" && "$0" "$@"; code=$?; rm -f "$0"; exit $code'


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    assert shutil.which("gcc")
    path = tmp_path_factory.mktemp("c") / "exits"
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-static", "-o", str(path), str(SOURCE)], check=True)
    return path.read_bytes()


def _deadline() -> Deadline:
    return Deadline.after(300, "Measuring exits")


def measure_by_c(shell: Shell, program: bytes) -> Costs:
    command = ("sh", "-c", _RUN, "/tmp/nestctl-exits", str(TARGET_MS), str(SAMPLES))
    text = shell.run(command, deadline=_deadline(), stdin=program).expect_success().text
    costs: dict[str, list[float]] = {}
    for line in text.splitlines():
        name, operations, elapsed_ns = line.split()
        costs.setdefault(name, []).append(int(elapsed_ns) / int(operations))
    return costs


def measure_by_agent(shell: Shell) -> Costs:
    words = ["measure", f"--samples={SAMPLES}", f"--target-ms={TARGET_MS}"]
    words += [f"--workload={name}" for name in WORKLOADS]
    measured = parse_measurement(run_agent(shell, words, deadline=_deadline()), where=shell.where)
    return {
        outcome.workload: [sample.elapsed_ns / sample.operations for sample in outcome.samples]
        for outcome in measured.outcomes
    }


@pytest.fixture(scope="module")
def shells(image: Image) -> Iterator[Mapping[str, Shell]]:
    """The levels of a lab of two, by name."""
    assert image.disk.exists()
    with TemporaryDirectory(prefix="n-", dir="/tmp") as directory, _state_in(directory):
        lab = Lab(directory=Path(directory))
        try:
            lab.nestctl("init").expect(0)
            give_one_cpu(lab.directory / "lab.yaml")
            lab.nestctl("up", timeout_s=1800).expect(0)
            with open_levels(find_lab(str(Path(directory) / "lab.yaml")), connect=None) as levels:
                yield {level.name: level.shell for level in levels}
        finally:
            # In this process, which may have the libvirt driver without a daemon for itself.
            down(lab.name, connect=None, step=lambda _text, **_about: nullcontext(), warn=_warn)


def _warn(text: str) -> None:
    sys.stderr.write(text + "\n")


@contextmanager
def _state_in(directory: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NESTCTL_STATE", str(Path(directory) / "s"))
        yield


@pytest.mark.parametrize("level", ["l1", "l2"])
def test_the_agent_agrees_with_a_program_in_c(
    level: str, shells: Mapping[str, Shell], program: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    ours: dict[str, list[float]] = {name: [] for name in WORKLOADS}
    theirs: dict[str, list[float]] = {name: [] for name in WORKLOADS}
    for _ in range(ROUNDS):
        by_c, by_agent = measure_by_c(shells[level], program), measure_by_agent(shells[level])
        for name in WORKLOADS:
            theirs[name] += by_c[name]
            ours[name] += by_agent[name]
    fastest = {name: min(ours[name]) / min(theirs[name]) for name in WORKLOADS}
    medians = {name: statistics.median(ours[name]) / statistics.median(theirs[name]) for name in WORKLOADS}
    with capsys.disabled():
        for name, ratio in fastest.items():
            cost_us = min(theirs[name]) / 1000
            print(f"\n{level} {name}: C {cost_us:.1f} µs, agent / C {ratio:.3f} (medians {medians[name]:.3f})")  # noqa: T201
    assert all(abs(ratio - 1) <= TOLERANCE for ratio in fastest.values()), fastest
    assert all(abs(ratio - 1) <= TOLERANCE for ratio in medians.values()), medians
