"""Labs on machines that are fakes: everything nestctl does with one, without guests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from nestctl.lab.admission import Room
from nestctl.lab.bring_up import Wishes
from nestctl.lab.compare import Action, Change, compare, walk_changes
from nestctl.lab.converge import converge
from nestctl.lab.host import Host, read_host_facts
from nestctl.lab.networks import compare_networks
from nestctl.lab.observe import look_at, observe
from nestctl.lab.plan import GuestPlan, plan_lab, plan_networks
from nestctl.lab.preview import Preview
from nestctl.lab.remove import remove
from nestctl.model.facts import Accelerator
from nestctl.model.lab import Lab
from nestctl.paths import state_directory
from tests.fakes import FakeAccess, FakeMachine, World, make_machine

HOST = Host(uri="fake:///", accelerator=Accelerator.KVM, cpu_feature="svm")


@dataclass
class Bench:
    """A machine, and what nestctl does on it."""

    world: World = field(default_factory=World)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machine: FakeMachine = make_machine("this machine", self.world)

    @property
    def access(self) -> FakeAccess:
        return FakeAccess(world=self.world, roots=[self.machine])

    @contextmanager
    def step(self, text: str, **_about: Any) -> Iterator[None]:
        self.said.append(text)
        yield

    def up(self, lab: Lab, *, wishes: Wishes | None = None, **some: Any) -> tuple[GuestPlan, ...]:
        return converge(
            self.machine.level,
            lab,
            HOST,
            step=self.step,
            say=self.said.append,
            wishes=wishes or Wishes(**some),
            access=self.access,
            room=Room(cpus=1000, available_mib=None, free_gib=1e6),
        )

    def down(self, lab: Lab) -> bool:
        return remove(self.machine.level, lab.name, step=self.step, warn=self.said.append, access=self.access)

    def preview(self, lab: Lab) -> Preview:
        there = observe(self.machine.level, look_at(lab, access=self.access, is_thorough=False))
        hypervisor = self.machine.hypervisor
        facts = read_host_facts(HOST, lab, there.domains, hypervisor.list_networks())
        return Preview(
            guests=compare(plan_lab(lab, facts), there),
            networks=compare_networks(
                lab.name, plan_networks(lab, facts), hypervisor.list_networks(), hypervisor.list_filters()
            ),
        )

    def plan(self, lab: Lab) -> tuple[Change, ...]:
        return self.preview(lab).guests

    def actions(self, lab: Lab) -> dict[str, Action]:
        return {it.name: it.action for it in walk_changes(self.plan(lab))}

    def expect_nothing_left(self) -> None:
        assert self.machine.hypervisor.domains == {}
        assert self.machine.hypervisor.networks == {}
        assert set(self.machine.hypervisor.filters) == {"clean-traffic"}
        assert not state_directory().exists()
