"""A class of 500 students with two guests each: libvirt's test driver for this machine, fakes inside its guests."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from nestctl.adapters.libvirt import Hypervisor
from nestctl.adapters.shell import Shell
from nestctl.deadline import Deadline
from nestctl.lab.compare import Action, Change, compare, is_settled, walk_changes
from nestctl.lab.host import plan_on
from nestctl.lab.keys import LabKeys
from nestctl.lab.level import Level, Visit
from nestctl.lab.observe import Look, observe
from nestctl.lab.parse import parse_lab
from nestctl.lab.plan import Adopted, Contact, GuestPlan
from nestctl.lab.render import render_domain
from nestctl.model.lab import Lab
from tests.builders import recognizable_keys
from tests.fakes import FakeMachine, FakeShell, World, make_machine
from tests.lab_bench import HOST
from tests.libvirt_test_driver import for_test_driver

pytestmark = pytest.mark.slow

STUDENTS = 500
TEXT = """
name: class
guests:
  "{{ row.login }}":
    for_each: class.csv
    memory_mib: 2048
    guests:
      "{{ row.login }}-vm": {count: 2, memory_mib: 512}
"""


@dataclass(frozen=True)
class Inside:
    """The way into guests whose machines are fakes."""

    machines: dict[str, FakeMachine]

    @contextmanager
    def open_guest(
        self, level: Level, guest: Contact, keys: LabKeys, deadline: Deadline, *, is_booting: bool = False
    ) -> Iterator[Shell]:
        yield self.machines[guest.name].shell

    def open_as_user(self, level: Level, adopted: Adopted, deadline: Deadline) -> AbstractContextManager[Visit]:
        raise AssertionError("nothing is adopted here")

    @contextmanager
    def open_level_in(self, shell: Shell) -> Iterator[Level]:
        yield self.machines[shell.where].level


@dataclass(frozen=True)
class Class:
    lab: Lab
    hypervisor: Hypervisor
    access: Inside

    def plan(self) -> tuple[Change, ...]:
        keys = recognizable_keys(self.lab.guests)
        look = Look(lab="class", keys=keys, access=self.access, is_thorough=False, stop=threading.Event())
        shell = FakeShell(where="this machine", world=World(), files=self.disks())
        there = observe(Level(shell=shell, hypervisor=self.hypervisor), look)
        return compare(plan_on(HOST, self.lab, (it.domain for it in there.guests)), there)

    def disks(self) -> set[str]:
        return {str(plan.disk) for plan in plan_on(HOST, self.lab, ())}


@pytest.fixture
def course(tmp_path: Path) -> Iterator[Class]:
    (tmp_path / "class.csv").write_text("login\n" + "".join(f"s{number}\n" for number in range(STUDENTS)))
    lab = parse_lab(TEXT, "lab.yaml", directory=tmp_path)
    connection = libvirt.open("test:///default")
    machines = {}
    try:
        for plan in plan_on(HOST, lab, ()):
            # Not validated here: libvirt reads its whole schema again for every domain.
            connection.defineXML(for_test_driver(render_domain(plan))).create()
            machines[plan.name] = _machine(plan)
        hypervisor = Hypervisor(where="this machine", uri="test:///default", connection=connection)
        yield Class(lab=lab, hypervisor=hypervisor, access=Inside(machines))
    finally:
        connection.close()


def _machine(plan: GuestPlan) -> FakeMachine:
    machine = make_machine(plan.name, World())
    for inner in plan.guests:
        machine.hypervisor.define_domain(render_domain(inner))
        machine.hypervisor.start_domain(inner.domain)
    return machine


def test_all_of_it_is_planned_and_what_is_broken_is_found(course: Class) -> None:
    assert is_settled(course.plan())
    course.hypervisor.connection.lookupByName("class-s7").destroy()
    course.hypervisor.connection.lookupByName("class-s8").destroy()
    course.hypervisor.connection.lookupByName("class-s8").undefine()
    course.access.machines["s9"].hypervisor.remove_domain("class-s9-vm-2")
    changes = {it.name: it.action for it in walk_changes(course.plan())}
    assert len(changes) == 3 * STUDENTS
    assert Counter(changes.values()) == {
        Action.KEEP: 3 * STUDENTS - 7,
        Action.CREATE: 4,
        Action.START: 1,
        Action.UNKNOWN: 2,
    }
    assert (changes["s7"], changes["s8"], changes["s9-vm-2"]) == (Action.START, Action.CREATE, Action.CREATE)
