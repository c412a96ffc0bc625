"""Where the threads of guests are to run, and that they are put back."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Completed, Conversation
from nestctl.bench.pins import _PIN, Thread, parse_cpus, parse_threads, pinned, plan_pins
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


def test_vcpus_get_the_last_cpus_and_the_rest_the_first() -> None:
    online, threads = parse_threads(LISTED)
    assert online == (0, 1, 2, 3)
    assert [thread.is_vcpu for thread in threads] == [False, True, False]
    assert plan_pins(online, threads).cpus == {"11": "0,1,2", "12": "3", "13": "0,1,2"}


@pytest.mark.parametrize(
    ("online", "cpus", "said"),
    [((0,), "0", "no: 1 vCPUs on 1 CPUs leave none"), ((0, 1), "1", "has pinned it")],
)
def test_where_there_is_no_room_or_pins_are_there_all_stays_and_it_is_said(
    online: tuple[int, ...], cpus: str, said: str
) -> None:
    threads = (Thread(domain="demo-l1", number="12", cpus=cpus, name="CPU 0/KVM"),)
    plan = plan_pins(online, threads)
    assert plan.cpus == {}
    assert said in plan.reason
    assert "no QEMU" in plan_pins(online, ()).reason


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
