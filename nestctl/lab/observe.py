"""Look what is there of a lab, asked of libvirt at each level, and of the guests themselves."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from nestctl.adapters.libvirt import Domain
from nestctl.deadline import Deadline
from nestctl.errors import NestctlError
from nestctl.lab.access import Access
from nestctl.lab.adoption import Adoption, parse_uuid, read_adoptions
from nestctl.lab.keys import LabKeys, find_keys
from nestctl.lab.level import Level
from nestctl.lab.parallel import run_all
from nestctl.lab.plan import Contact
from nestctl.lab.profiles import find_profile, list_profiles
from nestctl.lab.render import Mark, parse_contact, parse_mark
from nestctl.lab.verify import Truth, read_truth
from nestctl.model.lab import Lab
from nestctl.model.profile import DEFAULT_PROFILE

# A guest that runs answers within this time, a level; one that boots may be looked at again.
_REACH_TIMEOUT_S = 30.0

# Connections that are opened at once to look; each is little work on this machine.
_LOOKS = 16

_LIST_MISSING = 'for file; do [ -e "$file" ] || echo "$file"; done'


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A guest of the lab's that is there.

    `inside` is what its own libvirt has; None when that could not be looked into, and `reason` says why. `truth` is
    what the guest says of itself, None when it was not asked. `is_disk_gone` is only looked at when it is off.
    """

    domain: Domain
    mark: Mark
    contact: Contact
    is_disk_gone: bool = False
    truth: Truth | None = None
    inside: Inside | None = None
    reason: str = ""

    @property
    def is_running(self) -> bool:
        """Whether its domain runs; it need not answer."""
        return self.domain.is_running


@dataclass(frozen=True, kw_only=True)
class Inside:
    """What one libvirt has: guests of the lab's, and the names of all other domains; of those to adopt, all of it."""

    guests: tuple[Observed, ...] = ()
    strangers: frozenset[str] = frozenset()
    adoptable: tuple[Domain, ...] = ()

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The domains that planning has to know."""
        return (*(it.domain for it in self.guests), *self.adoptable)


@dataclass(frozen=True, kw_only=True)
class Look:
    """How to look at a lab. Guests that are no hypervisors are asked only when `is_thorough`.

    On this machine it has `adoptions`, by the UUIDs of their domains, and is about to adopt domains called `adopting`.
    """

    lab: str
    keys: LabKeys | None
    access: Access
    is_thorough: bool
    stop: threading.Event = field(default_factory=threading.Event)
    adoptions: Mapping[str, Adoption] = field(default_factory=dict)
    adopting: frozenset[str] = frozenset()

    @property
    def inside(self) -> Look:
        """How to look into a guest."""
        return replace(self, adoptions={}, adopting=frozenset())


def look_at(lab: Lab, *, access: Access, is_thorough: bool) -> Look:
    """Return how to look at a lab from this machine on."""
    return Look(
        lab=lab.name,
        keys=find_keys(lab.name),
        access=access,
        is_thorough=is_thorough,
        adoptions={it.adopted.uuid: it for it in read_adoptions(lab.name)},
        adopting=frozenset(guest.adopt.domain for guest in lab.guests.values() if guest.adopt),
    )


def observe(level: Level, look: Look) -> Inside:
    """Look what a hypervisor has of a lab, and inside every guest of it that runs and is a hypervisor."""
    guests: list[Observed] = []
    strangers: set[str] = set()
    adoptable: list[Domain] = []
    for domain in level.hypervisor.list_domains():
        mark = parse_mark(domain.xml)
        if mark and mark.lab == look.lab:
            guests.append(Observed(domain=domain, mark=mark, contact=parse_contact(domain.name, domain.xml)))
        elif look.adoptions and (adoption := look.adoptions.get(parse_uuid(domain.xml))):
            guests.append(Observed(domain=domain, mark=adoption.mark(look.lab), contact=adoption.contact(look.lab)))
        else:
            strangers.add(domain.name)
            adoptable += [domain] if domain.name in look.adopting else []
    missing = _list_missing(level, [_disk(it) for it in guests if not it.is_running and not it.mark.is_adopted])
    marked = [replace(it, is_disk_gone=not it.is_running and str(_disk(it)) in missing) for it in guests]
    looks = [lambda it=it: _look_into(level, it, look) for it in marked]
    return Inside(
        guests=run_all(looks, jobs=_LOOKS, stop=look.stop),
        strangers=frozenset(strangers),
        adoptable=tuple(adoptable),
    )


def _look_into(level: Level, guest: Observed, look: Look) -> Observed:
    if not guest.is_running:
        return replace(guest, reason=f"'{guest.mark.name}' is off")
    if not (look.is_thorough or guest.mark.is_hypervisor):
        return guest
    profile = guest.mark.settings.get("profile", DEFAULT_PROFILE)
    if profile in list_profiles() and not find_profile(profile).answers:
        return guest
    if look.keys is None or guest.mark.name not in look.keys.hosts:
        return replace(guest, reason=f"the key of '{guest.mark.name}' is lost")
    timeout_s = _REACH_TIMEOUT_S * max(guest.mark.level, 1)
    deadline = Deadline.after(timeout_s, f"An answer from '{guest.mark.name}' by SSH", stop=look.stop)
    try:
        with look.access.open_guest(level, guest.contact, look.keys, deadline) as shell:
            truth = read_truth(shell, deadline)
            if not guest.mark.is_hypervisor:
                return replace(guest, truth=truth)
            with look.access.open_level_in(shell) as inner:
                return replace(guest, truth=truth, inside=observe(inner, look.inside))
    except NestctlError as error:
        return replace(guest, reason=f"'{guest.mark.name}' does not answer: {error.message.splitlines()[0]}")


def _disk(guest: Observed) -> PurePosixPath:
    return guest.contact.console.parent / f"{guest.mark.name}.qcow2"


def _list_missing(level: Level, paths: list[PurePosixPath]) -> set[str]:
    if not paths:
        return set()
    command = ("sh", "-c", _LIST_MISSING, "sh", *(str(path) for path in paths))
    deadline = Deadline.after(60, f"Looking for disks on {level.shell.where}")
    return set(level.shell.run(command, deadline=deadline).expect_success().text.splitlines())
