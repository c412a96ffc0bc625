"""A large lab that is up: libvirt's test driver for this machine, fakes inside its guests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import libvirt

from nestctl.adapters.libvirt import Hypervisor
from nestctl.adapters.shell import Shell
from nestctl.deadline import Deadline
from nestctl.lab.compare import Change, compare
from nestctl.lab.host import plan_on
from nestctl.lab.host_facts import Adopted
from nestctl.lab.keys import LabKeys
from nestctl.lab.level import Level, Visit
from nestctl.lab.observe import Look, observe
from nestctl.lab.plan import Contact, GuestPlan
from nestctl.lab.render import render_domain
from nestctl.model.lab import Lab
from tests.builders import recognizable_keys
from tests.fakes import FakeMachine, FakeShell, World, make_machine
from tests.lab_bench import HOST
from tests.libvirt_test_driver import for_test_driver


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
class LargeLab:
    lab: Lab
    hypervisor: Hypervisor
    access: Inside
    keys: LabKeys
    disks: frozenset[str]

    def plan(self) -> tuple[Change, ...]:
        """Look at every level, as `nestctl plan` does, and compare."""
        look = Look(lab=self.lab.name, keys=self.keys, access=self.access, is_thorough=False, stop=threading.Event())
        shell = FakeShell(where="this machine", world=World(), files=set(self.disks))
        there = observe(Level(shell=shell, hypervisor=self.hypervisor), look)
        return compare(plan_on(HOST, self.lab, (it.domain for it in there.guests)), there)


@contextmanager
def open_large_lab(lab: Lab) -> Iterator[LargeLab]:
    """Have all guests of a lab of two levels there and running."""
    connection = libvirt.open("test:///default")
    try:
        plans = plan_on(HOST, lab, ())
        for plan in plans:
            # Not validated here: libvirt reads its whole schema again for every domain.
            connection.defineXML(for_test_driver(render_domain(plan))).create()
        yield LargeLab(
            lab=lab,
            hypervisor=Hypervisor(where="this machine", uri="test:///default", connection=connection),
            access=Inside({plan.name: _machine(plan) for plan in plans}),
            keys=recognizable_keys(lab.guests),
            disks=frozenset(str(plan.disk) for plan in plans),
        )
    finally:
        connection.close()


def _machine(plan: GuestPlan) -> FakeMachine:
    machine = make_machine(plan.name, World())
    for inner in plan.guests:
        machine.hypervisor.define_domain(render_domain(inner))
        machine.hypervisor.start_domain(inner.domain)
    return machine
