"""Machines that run guests, as far as labs can tell, without any: a libvirt, a shell and a way in, at every level.

`FakeHypervisor` passes the same tests as the real ones (tests/contract). Every effect is a step, and a world can come
to its end before any step: from then on nothing can be done in it, as when the process is killed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from xml.etree import ElementTree

from nestctl.adapters.libvirt import Domain, Filter, Hypervisor, Network
from nestctl.adapters.shell import Completed, Shell
from nestctl.deadline import Deadline
from nestctl.errors import GuestError, HypervisorError
from nestctl.lab.host_facts import Adopted
from nestctl.lab.keys import LabKeys
from nestctl.lab.level import Level, Visit
from nestctl.lab.plan import Contact, walk_plans
from nestctl.lab.render import parse_mark, render_domain
from tests.builders import limited_plan, parse_xml, plan_of_depth, tuned_plan


class Killed(BaseException):
    """The process is gone: nobody catches it, and nothing can be cleaned up any more."""


@dataclass
class World:
    """Counts effects; `ends_at` is the step before which it ends, `failing` names guests that never answer."""

    ends_at: int | None = None
    steps: int = 0
    failing: set[str] = field(default_factory=set)
    booting: int = 0
    most_booting: int = 0
    visits: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def effect(self) -> None:
        with self.lock:
            if self.ends_at is not None and self.steps >= self.ends_at:
                raise Killed
            self.steps += 1


# Of the machines that nestctl did not make.
HOST_KEY = "ssh-ed25519 of-the-machine"


@dataclass
class FakeDomain:
    xml: str
    machine: FakeMachine
    live_xml: str = ""


class FakeHypervisor(Hypervisor):
    """A libvirt that keeps domains and networks in memory."""

    def __init__(self, where: str, world: World) -> None:
        super().__init__(where=where, uri="fake:///", connection=None)
        object.__setattr__(self, "world", world)
        object.__setattr__(self, "domains", {})
        object.__setattr__(self, "networks", {})
        object.__setattr__(self, "filters", {})
        object.__setattr__(self, "limits", [])
        for base in ("clean-traffic",):
            self.filters[base] = Filter(name=base, uuid="", xml=f"<filter name='{base}'/>")

    world: World
    domains: dict[str, FakeDomain]
    networks: dict[str, Network]
    filters: dict[str, Filter]
    limits: list[tuple[str, Mapping[str, int | None]]]

    def set_limits(self, name: str, limits: Mapping[str, int | None]) -> None:
        self.world.effect()
        self._find("limit", name)
        self.limits.append((name, limits))

    def list_domains(self) -> tuple[Domain, ...]:
        return tuple(
            Domain(name=name, is_running=bool(it.live_xml), xml=it.xml, live_xml=it.live_xml)
            for name, it in list(self.domains.items())
        )

    def find_domain(self, name: str) -> Domain | None:
        return next((it for it in self.list_domains() if it.name == name), None)

    def define_domain(self, xml: str) -> None:
        self.world.effect()
        name = _check(xml, "domain").findtext("name", "")
        if name in self.domains:
            self.domains[name].xml = xml
        else:
            self.domains[name] = FakeDomain(xml=xml, machine=make_machine(name, self.world))

    def start_domain(self, name: str) -> None:
        self.world.effect()
        domain = self._find("start", name)
        domain.live_xml = domain.xml

    def stop_domain(self, name: str) -> None:
        self.world.effect()
        self._find("stop", name).machine.switch_off()
        self.domains[name].live_xml = ""

    def read_trouble(self, name: str) -> str:
        return "" if self._find("ask about", name).live_xml else "has stopped"

    def remove_domain(self, name: str) -> None:
        self.world.effect()
        self._find("remove", name)
        del self.domains[name]

    def list_networks(self) -> tuple[Network, ...]:
        return tuple(self.networks.values())

    def define_network(self, xml: str) -> None:
        self.world.effect()
        name = parse_xml(xml).findtext("name", "")
        self.networks[name] = Network(name=name, is_active=False, xml=xml)

    def start_network(self, name: str) -> None:
        self.world.effect()
        self.networks[name] = Network(name=name, is_active=True, xml=self.networks[name].xml)

    def remove_network(self, name: str) -> None:
        self.world.effect()
        del self.networks[name]

    def has_networks(self) -> bool:
        return True

    def list_filters(self) -> tuple[Filter, ...]:
        return tuple(self.filters.values())

    def define_filter(self, xml: str) -> None:
        self.world.effect()
        root = parse_xml(xml)
        name = root.get("name", "")
        self.filters[name] = Filter(name=name, uuid=root.findtext("uuid", ""), xml=xml)

    def remove_filter(self, name: str) -> None:
        self.world.effect()
        if any(f"filter='{name}'" in it.xml for it in self.domains.values()):
            raise HypervisorError(f"Could not remove the filter '{name}': nwfilter is in use.")
        del self.filters[name]

    def read_domain_capabilities(self, emulator: str, domain_type: str) -> str:
        return f"<domainCapabilities><path>{emulator}</path><domain>{domain_type}</domain></domainCapabilities>"

    def _find(self, doing: str, name: str) -> FakeDomain:
        if name not in self.domains:
            raise HypervisorError(f"Could not {doing} '{name}' on {self.where}: Domain not found.")
        return self.domains[name]


@dataclass
class FakeShell:
    """A shell that knows the commands that labs need; `files` are those that are there."""

    where: str
    world: World
    files: set[str] = field(default_factory=set)
    is_asked_to_stop: bool = False
    uuid: str = ""
    authorized: set[str] = field(default_factory=set)
    lacking: str = ""

    def run(self, command: Sequence[str], *, deadline: Deadline, stdin: bytes = b"") -> Completed:
        deadline.check()
        script = command[2] if command[:2] in (("sh", "-c"), ["sh", "-c"]) else ""
        said = ""
        if "qemu-img create" in script:
            self.world.effect()
            self.files |= {str(command[4])}
            self.world.effect()
            self.files |= {str(command[5])}
        elif command[0] == "rm":
            self.world.effect()
            self.files = {
                it for it in self.files if not any(it == word or it.startswith(f"{word}/") for word in command)
            }
        elif 'echo "$file"' in script:
            said = "\n".join(it for it in command[4:] if it not in self.files)
        elif command[0] == "cat":
            said = "<qemuCaps/>"
        elif command[0] == "test" or "authorized_keys" in script or "product_uuid" in script:
            said = self._adopt(script, command)
        elif "signature=" in script:
            said = "signature=kvm\nmodule=kvm_amd\nnested=1\ndevice=yes"
        elif "poweroff" in command:
            self.world.effect()
            self.is_asked_to_stop = True
        else:
            raise AssertionError(f"the fake does not know {command}")
        return Completed(command=tuple(command), where=self.where, exit_code=0, stdout=said.encode(), stderr=b"")

    def _adopt(self, script: str, command: Sequence[str]) -> str:
        """What is done with a machine that is adopted; the images are in it already."""
        if "product_uuid" in script:
            held = [f"held={line}" for line in sorted(self.authorized) if "nestctl-adopted:" in line]
            return "\n".join([f"uuid={self.uuid.upper()}", f"missing={self.lacking}" if self.lacking else "", *held])
        if script:
            self.world.effect()
            change = self.authorized.discard if "rm -rf" in script else self.authorized.add
            change(str(command[4]))
        return "0"


@dataclass
class FakeMachine:
    shell: FakeShell
    hypervisor: FakeHypervisor

    @property
    def level(self) -> Level:
        return Level(shell=self.shell, hypervisor=self.hypervisor)

    def switch_off(self) -> None:
        """What runs inside stops with it; what is on its disk stays."""
        for domain in self.hypervisor.domains.values():
            domain.machine.switch_off()
            domain.live_xml = ""


def make_machine(name: str, world: World) -> FakeMachine:
    return FakeMachine(shell=FakeShell(where=name, world=world), hypervisor=FakeHypervisor(name, world))


@dataclass
class FakeAccess:
    """Guests that answer as soon as they run, unless their world has them fail."""

    world: World

    @contextmanager
    def open_guest(
        self, level: Level, guest: Contact, keys: LabKeys, deadline: Deadline, *, is_booting: bool = False
    ) -> Iterator[Shell]:
        assert guest.name in keys.hosts
        hypervisor = level.hypervisor
        assert isinstance(hypervisor, FakeHypervisor)
        with self.world.lock:
            self.world.visits.append(guest.name)
        if guest.name in self.world.failing:
            raise GuestError(f"The guest '{guest.name}' was to boot, and has stopped.\nIts console: no")
        domain = hypervisor._find("reach", guest.domain)
        if not domain.live_xml:
            raise GuestError(f"'{guest.name}' is off.")
        if guest.host_key:
            assert guest.host_key == HOST_KEY
            if not any(line.startswith(keys.client.public) for line in domain.machine.shell.authorized):
                raise GuestError(f"'{guest.name}' refused the lab's key.")
            yield domain.machine.shell
            return
        disk = str(guest.console.parent / f"{guest.name}.qcow2")
        assert isinstance(level.shell, FakeShell)
        assert disk in level.shell.files, f"{guest.name} runs without a disk"
        self._note_boot(1 if is_booting else 0)
        try:
            deadline.check()
            yield domain.machine.shell
        finally:
            if domain.machine.shell.is_asked_to_stop:
                domain.machine.switch_off()
                domain.machine.shell.is_asked_to_stop = False
                domain.live_xml = ""

    def _note_boot(self, number: int) -> None:
        with self.world.lock:
            self.world.booting += number
            self.world.most_booting = max(self.world.most_booting, self.world.booting)
            self.world.booting -= number

    @contextmanager
    def open_as_user(self, level: Level, adopted: Adopted, deadline: Deadline) -> Iterator[Visit]:
        assert isinstance(level.hypervisor, FakeHypervisor)
        yield Visit(shell=level.hypervisor._find("reach", adopted.domain).machine.shell, host_key=HOST_KEY)

    @contextmanager
    def open_level_in(self, shell: Shell) -> Iterator[Level]:
        yield next(it for it in self._machines if it.shell is shell).level

    def __post_init__(self) -> None:
        self._machines = _Machines(self)

    roots: list[FakeMachine] = field(default_factory=list)


class _Machines:
    """All machines of a world, by looking through it."""

    def __init__(self, access: FakeAccess) -> None:
        self.access = access

    def __iter__(self) -> Iterator[FakeMachine]:
        waiting = list(self.access.roots)
        while waiting:
            machine = waiting.pop()
            yield machine
            waiting += [it.machine for it in list(machine.hypervisor.domains.values())]


_EVERYTHING = (*walk_plans((plan_of_depth(2), plan_of_depth(2, is_emulated=True))), limited_plan(), tuned_plan())
KNOWN_ELEMENTS = {it.tag for plan in _EVERYTHING for it in parse_xml(render_domain(plan)).iter()}


def _check(xml: str, kind: str) -> ElementTree.Element:
    """Check a document as libvirt does: well formed, and nothing in it that is unknown."""
    try:
        root = parse_xml(xml)
    except ElementTree.ParseError as error:
        raise HypervisorError(f"Could not define a {kind} on this machine: {error}.") from error
    if unknown := {it.tag for it in root.iter()} - KNOWN_ELEMENTS - {"shareable", "readonly"}:
        raise HypervisorError(f"Could not define a {kind} on this machine: XML document failed to validate: {unknown}.")
    return root


def own_domains(machine: FakeMachine) -> dict[str, bool]:
    """Every domain of a machine and all inside, and whether it runs."""
    found: dict[str, bool] = {}
    for name, domain in machine.hypervisor.domains.items():
        assert parse_mark(domain.xml)
        found[name] = bool(domain.live_xml)
        found |= own_domains(domain.machine)
    return found
