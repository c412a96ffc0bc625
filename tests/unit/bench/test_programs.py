"""Benchmark programs as data: every file is read, and reads what the real program printed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Completed, Conversation
from nestctl.bench.programs import Program, parse_output, read_programs
from nestctl.bench.run import run_bench
from nestctl.bench.run_program import run_program
from nestctl.bench.summary import summarize
from nestctl.bench.workloads import WORKLOADS
from nestctl.deadline import Deadline
from nestctl.image.recipe import COMMON_PACKAGES
from nestctl.model.samples import Settings
from tests.unit.bench.builders import Machine

ROOT = Path(__file__).parents[3]
RECORDED = Path(__file__).parent / "recorded" / "programs"
PROGRAMS = {program.name: program for program in read_programs()}


def soon() -> Deadline:
    return Deadline.after(60, "The test")


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_reads_what_the_real_one_printed(name: str) -> None:
    outcome = parse_output(PROGRAMS[name], (RECORDED / f"{name}.txt").read_text())
    (sample,) = outcome.samples
    operations, elapsed_ns = json.loads((RECORDED / "expected.json").read_text())[name]
    assert sample.operations == operations
    assert sample.elapsed_ns == pytest.approx(elapsed_ns, rel=1e-6)


def test_nothing_is_recorded_without_its_program() -> None:
    assert {path.stem for path in RECORDED.glob("*.txt")} == set(PROGRAMS)
    assert set(PROGRAMS) <= {workload.name for workload in WORKLOADS}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("cut", [0, 0.1, 0.3])
def test_what_was_cut_off_gives_a_reason_and_no_number(name: str, cut: float) -> None:
    text = (RECORDED / f"{name}.txt").read_text()
    outcome = parse_output(PROGRAMS[name], text[: int(len(text) * cut)])
    assert outcome.samples == ()
    assert "cannot be read" in outcome.not_measured


@given(st.sampled_from(sorted(PROGRAMS)), st.text(max_size=60))
def test_nonsense_never_raises(name: str, text: str) -> None:
    outcome = parse_output(PROGRAMS[name], text)
    assert bool(outcome.samples) != bool(outcome.not_measured)


@dataclass
class ScriptedShell:
    """Answers by the first word that is in the command; everything else succeeds and prints nothing."""

    name: str
    answers: dict[str, tuple[int, str]]
    commands: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        return self.name

    def run(self, command: Sequence[str], *, deadline: Deadline, stdin: bytes = b"") -> Completed:
        text = shlex.join(command)
        self.commands.append(text)
        code, printed = next((answer for word, answer in self.answers.items() if word in text), (0, ""))
        return Completed(command=tuple(command), where=self.name, exit_code=code, stdout=printed.encode(), stderr=b"")

    def converse(self, command: Sequence[str]) -> AbstractContextManager[Conversation]:
        raise AssertionError(f"programs need no agent: {command}")


def network() -> Program:
    return PROGRAMS["iperf3_up"]


def test_a_server_is_started_on_the_level_above_where_the_guest_reaches_it() -> None:
    printed = (RECORDED / "iperf3_up.txt").read_text()
    answers = {"ip -4 route": (0, "default via 10.9.1.1 dev eth0\n"), "iperf3 --client": (0, printed)}
    top, middle, inner = (ScriptedShell(name, answers) for name in ("L0", "l1", "l2"))
    levels = [
        Machine(name="L0", shell=top),
        Machine(name="l1", shell=middle, above="L0", depth=1),
        Machine(name="l2", shell=inner, above="l1", depth=2),
    ]
    assert run_program(network(), levels[2], levels[1], soon()).samples
    (server,) = [command for command in middle.commands if "--server" in command]
    assert "--bind 10.9.1.1 " in server
    port = server.split("--port ")[1].split()[0]
    assert any(f"--client 10.9.1.1 --port {port} " in command for command in inner.commands)
    assert run_program(network(), levels[1], levels[0], soon()).samples
    # A guest of this machine comes from QEMU's user-mode network: nothing else may reach the server.
    assert any("--bind 127.0.0.1 " in command for command in top.commands)


def test_the_packages_of_programs_are_in_the_image_and_in_the_command_for_this_machine() -> None:
    packages = {package for program in PROGRAMS.values() for package in program.packages.split()}
    assert packages <= {*COMMON_PACKAGES}
    page = (ROOT / "docs/explanation/how-we-measure.md").read_text()
    assert f"\n    apt-get install {' '.join(sorted(packages))}\n" in page


def test_what_is_not_there_has_a_reason() -> None:
    absent = {"command -v": (1, ""), "sysbench cpu": (127, ""), "ip -4": (0, "default via 10.9.1.1 dev eth0")}
    alone = Machine(name="L0", shell=ScriptedShell("L0", absent))
    guest = Machine(name="l1", shell=ScriptedShell("l1", absent), above="L0", depth=1)
    assert run_program(network(), alone, None, soon()).not_measured == "there is no level above"
    iperf3 = run_program(network(), guest, alone, soon())
    assert iperf3.not_measured == "'iperf3' is not installed on l1; on Debian 'apt-get install iperf3' adds it"
    cpu = run_program(PROGRAMS["sysbench_cpu"], alone, None, soon())
    assert "'sysbench' is not installed on L0" in cpu.not_measured
    found = Machine(name="L0", shell=ScriptedShell("L0", {}))
    lost = Machine(name="l1", shell=ScriptedShell("l1", {}), above="L0", depth=1)
    assert "has no default route" in run_program(network(), lost, found, soon()).not_measured
    failed = Machine(name="L0", shell=ScriptedShell("L0", {"sysbench cpu": (1, "no memory")}))
    refused = run_program(PROGRAMS["sysbench_cpu"], failed, None, soon()).not_measured
    assert "ended with exit code 1: no memory" in refused


def test_a_program_runs_for_real_in_every_round_with_the_clock_of_this_machine_around_it() -> None:
    settings = Settings(rounds=2, workloads=("gcc_compile",))
    results = run_bench([Machine(name="L0", shell=LocalShell())], settings=settings, deadline=soon())
    assert [call.failure for call in results.calls] == ["", ""]
    for call in results.calls:
        ((sample,),) = (outcome.samples for outcome in call.outcomes)
        assert sample.elapsed_ns < call.host_end_ns - call.host_begin_ns
    (row,) = summarize(results).rows
    assert len(row.figures[0].values) == 2
    assert all(0 < point.seconds < 60 for point in row.figures[0].points)
    assert not list(Path("/dev/shm").glob("nestctl-*"))


@dataclass(frozen=True)
class GuestHere(LocalShell):
    """This machine, as a guest that finds the level above at the loopback address."""

    def run(
        self, command: Sequence[str], *, deadline: Deadline, stdin: bytes = b"", descriptors: Sequence[int] = ()
    ) -> Completed:
        if command[0] == "ip":
            return Completed(
                command=tuple(command), where=self.where, exit_code=0, stdout=b"default via 127.0.0.1\n", stderr=b""
            )
        return super().run(command, deadline=deadline, stdin=stdin, descriptors=descriptors)


def test_round_trips_run_for_real_and_say_when_there_is_no_server() -> None:
    program = PROGRAMS["net_round_trip"]
    top = Machine(name="L0", shell=LocalShell())
    guest = Machine(name="l1", shell=GuestHere(), above="L0", depth=1)
    outcome = run_program(program, guest, top, soon())
    assert outcome.not_measured == ""
    (sample,) = outcome.samples
    assert sample.operations > 1
    assert sample.elapsed_ns >= 1e9
    # Where no server is, the client says so and ends.
    command = program.command.replace("range(200)", "range(2)")
    refused = run_program(program.model_copy(update={"server": "true", "command": command}), guest, top, soon())
    assert "cannot be reached" in refused.not_measured
