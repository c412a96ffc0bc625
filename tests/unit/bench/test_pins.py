"""Where the threads of guests are to run, and that they are put back."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Completed, Conversation
from nestctl.bench.pins import _LIST, _PIN, QEMU_FUNCTIONS, parse_cpus, parse_threads, pinned, plan_pins
from nestctl.deadline import Deadline
from nestctl.errors import GuestError
from tests.unit.bench.builders import FakeShell, Machine

LISTED = "0-3\ndemo-l1 11 0-3 qemu-system-x86\ndemo-l1 12 0-3 CPU 0/KVM\ndemo-l1 13 0-3 IO mon_iothread"


@dataclass
class PinShell:
    """A machine with guests whose threads are pinned by number; a worker comes when they have been."""

    cpus: dict[str, str]
    names: dict[str, str]
    online: str = "0-3"
    where: str = "this machine"
    is_broken: bool = False
    pins: list[dict[str, str]] = field(default_factory=list)

    def run(self, command: Sequence[str], *, deadline: Deadline, stdin: bytes = b"") -> Completed:
        if self.is_broken:
            raise GuestError("It does not answer.")
        deadline.check()
        text = ""
        if "taskset" in command[2]:
            given = dict(zip(command[5::2], command[4::2], strict=True))
            self.pins.append(given)
            self.cpus |= given
            if "14" not in self.names:
                self.names["14"], self.cpus["14"] = "worker", given["11"]
        else:
            lines = [f"demo-l1 {number} {self.cpus[number]} {name}" for number, name in self.names.items()]
            text = "\n".join([self.online, *lines])
        return Completed(command=tuple(command), where=self.where, exit_code=0, stdout=text.encode(), stderr=b"")

    def converse(self, command: Sequence[str]) -> AbstractContextManager[Conversation]:
        raise AssertionError(f"nothing is measured there, and {command} was started")


def shell() -> PinShell:
    names = {"11": "qemu-system-x86", "12": "CPU 0/KVM"}
    return PinShell(cpus=dict.fromkeys(names, "0-3"), names=names)


def levels(host: PinShell) -> list[Machine]:
    return [Machine(name="L0", shell=host), Machine(name="l1", shell=FakeShell("l1", [1]), depth=1, above="L0")]


def cores(siblings: Sequence[str], nodes: str = "") -> str:
    """Show CPUs as a machine does: of each the threads of its core, and its node."""
    lines = [f"@ {cpu} {them} {nodes[cpu] if nodes else 0}" for cpu, them in enumerate(siblings)]
    return "\n".join([f"0-{len(siblings) - 1}", *lines])


def plan(machine: str, vcpus: int) -> tuple[list[str], str, str]:
    """Return the CPUs of the vCPUs, those of the other threads, and what is said."""
    every = machine.partition("\n")[0]
    names = ["qemu-system-x86", *(f"CPU {number}/KVM" for number in range(vcpus))]
    listed = [f"demo-l1 {number} {every} {name}" for number, name in enumerate(names)]
    made = plan_pins(*parse_threads("\n".join([machine, *listed])))
    pins = [made.cpus[str(number)] for number in range(1, vcpus + 1)] if made.cpus else []
    return pins, made.cpus.get("0", ""), made.reason


def test_vcpus_get_the_last_cpus_and_the_rest_the_first() -> None:
    found, threads = parse_threads(LISTED)
    assert [core.cpus for core in found] == [(0,), (1,), (2,), (3,)]
    assert [thread.is_vcpu for thread in threads] == [False, True, False]
    assert plan_pins(found, threads).cpus == {"11": "0,1,2", "12": "3", "13": "0,1,2"}


FOUR_CORES = cores(["0,4", "1,5", "2,6", "3,7"] * 2)
TWO_NODES = cores(["0", "1", "2", "3", "4", "5"], nodes="000111")


@pytest.mark.parametrize(
    ("machine", "vcpus", "pins", "others", "said"),
    [
        (FOUR_CORES, 3, ["1", "2", "3"], "0,4", "each vCPU on a core of its own"),
        (FOUR_CORES, 4, ["2", "3", "6", "7"], "0,1,4,5", "vCPUs share cores"),
        (FOUR_CORES, 7, [], "", "no: 7 vCPUs on 8 CPUs of 4 cores leave no core"),
        (TWO_NODES, 2, ["4", "5"], "3", "each vCPU on a CPU of its own, QEMU's other threads on the rest"),
        (TWO_NODES, 4, ["2", "3", "4", "5"], "0,1", "on several NUMA nodes"),
    ],
)
def test_threads_of_a_core_and_nodes_are_heeded(
    machine: str, vcpus: int, pins: list[str], others: str, said: str
) -> None:
    planned = plan(machine, vcpus)
    assert planned[:2] == (pins, others)
    assert said in planned[2]


@pytest.mark.parametrize(
    ("online", "cpus", "said"),
    [("0", "0", "no: 1 vCPUs on 1 CPUs of 1 cores leave no core"), ("0-1", "1", "has pinned it")],
)
def test_where_there_is_no_room_or_pins_are_there_all_stays_and_it_is_said(online: str, cpus: str, said: str) -> None:
    made = plan_pins(*parse_threads(f"{online}\ndemo-l1 12 {cpus} CPU 0/KVM"))
    assert made.cpus == {}
    assert said in made.reason
    assert "no QEMU" in plan_pins(parse_threads(online)[0], ()).reason


@pytest.mark.parametrize("emulator", ["/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm"])
def test_a_qemu_is_found_wherever_it_is_installed_by_programs_that_every_machine_has(
    emulator: str, tmp_path: Path
) -> None:
    for program in ("grep", "sed"):
        (tmp_path / program).symlink_to(shutil.which(program) or "")
    shell = LocalShell(environment={"PATH": str(tmp_path)})
    command = [emulator, "-c", "read end", "-name", "guest=demo-pins,debug-threads=on"]
    with subprocess.Popen(command, executable="/bin/sh", stdin=subprocess.PIPE) as process:
        for name, found in {"demo-pins": str(process.pid), "demo-pin": ""}.items():
            script = ("/bin/sh", "-c", f'{QEMU_FUNCTIONS}find_qemu "$1"', "sh", name)
            assert shell.run(script, deadline=Deadline.after(20, "Looking")).text == found
        process.communicate(b"\n")


def test_the_cores_of_this_machine_have_all_its_cpus() -> None:
    listed = LocalShell().run(("sh", "-c", _LIST), deadline=Deadline.after(20, "Looking")).expect_success().text
    found, threads = parse_threads(listed)
    assert listed.count("@") > 0
    assert {cpu for core in found for cpu in core.cpus} >= os.sched_getaffinity(0)
    assert threads == ()


def test_threads_are_pinned_meanwhile_and_put_back_with_those_that_came() -> None:
    host = shell()
    with pinned(levels(host), "demo") as said:
        assert host.cpus == {"11": "0,1,2", "12": "3", "14": "0,1,2"}
        assert said == {"l1": "each vCPU on a CPU of its own, QEMU's other threads on the rest"}
    assert host.cpus == dict.fromkeys(("11", "12", "14"), "0-3")


def test_they_are_put_back_when_the_run_is_interrupted() -> None:
    host = shell()
    with pytest.raises(KeyboardInterrupt), pinned(levels(host), "demo"):
        raise KeyboardInterrupt
    assert set(host.cpus.values()) == {"0-3"}


def test_a_machine_that_does_not_say_keeps_its_guests_where_they_are() -> None:
    host = shell()
    host.is_broken = True
    with pinned(levels(host), "demo") as said:
        assert said == {"l1": "no: It does not answer."}


def test_a_machine_that_is_lost_meanwhile_is_no_reason_to_lose_the_results(caplog: pytest.LogCaptureFixture) -> None:
    host = shell()
    with pinned(levels(host), "demo"):
        host.is_broken = True
    assert "could not be put back" in caplog.text


def test_a_process_of_this_machine_is_pinned_for_real() -> None:
    cpu = sorted(os.sched_getaffinity(0))[-1]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        command = ("sh", "-c", _PIN, "sh", str(cpu), str(process.pid), "0", "999999999")
        LocalShell().run(command, deadline=Deadline.after(20, shlex.join(command))).expect_success()
        assert os.sched_getaffinity(process.pid) == {cpu}
        process.communicate(b"\n")


def test_a_list_of_cpus() -> None:
    assert parse_cpus("0-2,5\n") == (0, 1, 2, 5)
    assert parse_cpus("") == ()
