"""Make a lab be gone: everything that `up` made of it, and nothing else. It can be repeated."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from nestctl.adapters.libvirt import Domain
from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Shell
from nestctl.adapters.uri import choose_uri
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, GuestError, NestctlError, PrerequisiteError
from nestctl.lab.access import Access, SshAccess
from nestctl.lab.adopt import check_adopted, leave
from nestctl.lab.adoption import Adoption, drop_adoption, list_adopted_domains, read_adoptions
from nestctl.lab.audit import find_traces
from nestctl.lab.host import open_connection
from nestctl.lab.keys import LabKeys, find_keys
from nestctl.lab.level import Level, Step, list_own_domains
from nestctl.lab.networks import remove_networks
from nestctl.lab.parallel import DEFAULT_JOBS, Failure, raise_failures, run_all
from nestctl.lab.place import GUEST_DIRECTORY
from nestctl.lab.plan import Contact
from nestctl.lab.render import Mark, parse_contact
from nestctl.lab.store import forget_lab, lab_directory, lock_lab

# How long a guest that is to be removed is given to answer, a level.
_REACH_TIMEOUT_S = 20.0

# How long files are removed in a guest: gigabytes, where it is adopted, and perhaps emulated.
_CLEAN_TIMEOUT_S = 120.0

# How long what was told to end is given, and how often it is looked for, in seconds.
_LEFT_TIMEOUT_S = 5.0
_LOOK_AGAIN_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What stays the same while one lab is removed; `keys` are None when they are lost."""

    lab: str
    keys: LabKeys | None
    step: Step
    warn: Callable[[str], None]
    access: Access
    stop: threading.Event = field(default_factory=threading.Event)
    failures: list[Failure] = field(default_factory=list)


def down(name: str, *, connect: str | None, step: Step, warn: Callable[[str], None]) -> bool:
    """Remove everything `up` made of a lab, innermost guests first, and nothing else. Return whether there was any.

    A guest that cannot be reached is removed with all that is inside it, and `warn` is told.
    """
    with lock_lab(name), open_connection(choose_uri(connect)) as hypervisor:
        return remove(Level(shell=LocalShell(), hypervisor=hypervisor), name, step=step, warn=warn, access=SshAccess())


def clean_up(name: str, *, connect: str | None, step: Step, warn: Callable[[str], None]) -> None:
    """Remove a lab after something that the user has to know first: what keeps it from going is a warning beside it.

    `up` makes a lab's directory before anything else, so without one there is nothing of it to be removed.
    """
    if not lab_directory(name).exists():
        return
    try:
        down(name, connect=connect, step=step, warn=warn)
    except NestctlError as error:
        warn(f"the lab '{name}' could not be removed: {error.message} 'nestctl down {name}' tries again.")


def remove(level: Level, name: str, *, step: Step, warn: Callable[[str], None], access: Access) -> bool:
    """Do what `down` does, on a level that is open."""
    is_there = lab_directory(name).exists() or bool(list_own_domains(level.hypervisor, name))
    removal = Removal(lab=name, keys=_find_keys(name, warn), step=step, warn=warn, access=access)
    release_all(level, removal)
    take_down(level, removal)
    raise_failures(removal.failures)
    forget_lab(name)
    expect_nothing_left(name, level)
    return is_there


def expect_nothing_left(name: str, level: Level) -> None:
    """Raise `FailedError` with all that is still there of a lab; a QEMU that was told to end is given its time."""
    deadline = Deadline.after(_LEFT_TIMEOUT_S, "The end of all guests")
    while traces := tuple(find_traces(name, level.hypervisor)):
        if deadline.is_over:
            said = "\n".join(f"  {it.kind}: {it.name}" for it in traces)
            raise FailedError(
                f"Not everything of the lab '{name}' could be removed. Still there:\n{said}",
                hint=f"'nestctl down {name}' tries again, 'nestctl audit {name}' looks again.",
            )
        time.sleep(_LOOK_AGAIN_S)


def _find_keys(name: str, warn: Callable[[str], None]) -> LabKeys | None:
    try:
        return find_keys(name)
    except NestctlError as error:
        warn(error.message)
        return None


def release_all(level: Level, removal: Removal) -> None:
    """Leave every domain that the lab has adopted, as it was found; one that cannot be gone into is a failure."""
    adoptions = read_adoptions(removal.lab)
    domains = level.hypervisor.list_domains() if adoptions else ()
    there = {it.adopted.uuid: domain for domain, it in list_adopted_domains(domains, removal.lab)}
    for adoption in adoptions:
        name, domain = adoption.name, there.get(adoption.adopted.uuid)
        if domain is None:
            removal.warn(f"The domain '{adoption.adopted.domain}' that '{name}' had adopted is not there any more.")
            drop_adoption(removal.lab, name)
            continue
        try:
            if not domain.is_running:
                raise PrerequisiteError(
                    f"What nestctl made in the domain '{domain.name}' cannot be removed: it is off.",
                    hint=f"Start it, and run 'nestctl down {removal.lab}' again.",
                )
            release(level, adoption, removal)
        except NestctlError as error:
            removal.failures.append(Failure(name=name, error=error))


def release(level: Level, adoption: Adoption, removal: Removal) -> None:
    """Remove from a domain that was adopted what nestctl made in it; the domain itself runs on, unchanged."""
    lab, keys, contact = removal.lab, removal.keys, adoption.contact(removal.lab)
    if keys is None:
        raise FailedError(
            f"What nestctl made in the domain '{contact.domain}' cannot be removed: the lab's keys are lost.",
            hint=f"Remove the domains and networks called '{lab}-...' there, and /var/lib/nestctl, then the directory "
            f"'{lab_directory(lab)}' here.",
        )
    # Failures inside are this machine's own.
    own = replace(removal, failures=[])
    with removal.step(f"Leaving {contact.name}", lab=lab, node=contact.name, level=contact.level):
        try:
            deadline = _deadline(contact, removal)
            with removal.access.open_guest(level, contact, keys, deadline) as shell:
                _leave(shell, adoption, keys, own)
        except GuestError:
            # The lab's key was taken out, or not let in yet when nestctl was killed: the user's is there.
            deadline = _deadline(contact, removal)
            with removal.access.open_as_user(level, adoption.adopted, deadline) as visit:
                check_adopted(visit.shell, lab, adoption.adopted, keys, deadline)
                _leave(visit.shell, adoption, keys, own)
        raise_failures(own.failures)
    drop_adoption(lab, contact.name)


def take_down(level: Level, removal: Removal) -> None:
    """Remove a lab's guests from a level, and before each the guests inside it; then the lab's networks."""
    tasks = [
        lambda domain=domain, mark=mark: _take_down_one(level, domain, mark, removal)
        for domain, mark in list_own_domains(level.hypervisor, removal.lab)
    ]
    run_all(tasks, jobs=DEFAULT_JOBS, stop=removal.stop)
    remove_networks(level.hypervisor, removal.lab)


def _take_down_one(level: Level, domain: Domain, mark: Mark, removal: Removal) -> None:
    if removal.stop.is_set():
        raise KeyboardInterrupt
    contact = parse_contact(domain.name, domain.xml)
    if domain.is_running and removal.keys and mark.is_hypervisor:
        try:
            deadline = _deadline(contact, removal)
            with removal.access.open_guest(level, contact, removal.keys, deadline) as shell:
                _take_down_inside(shell, removal)
        except NestctlError as error:
            removal.warn(f"What is inside '{contact.name}' goes with it unseen: {error.message.splitlines()[0]}")
    try:
        with removal.step(f"Removing {contact.name}", lab=contact.lab, node=contact.name, level=contact.level):
            level.hypervisor.remove_domain(domain.name)
    except NestctlError as error:
        removal.failures.append(Failure(name=contact.name, error=error))


def _take_down_inside(shell: Shell, removal: Removal) -> None:
    with removal.access.open_level_in(shell) as inner:
        take_down(inner, removal)
        deadline = Deadline.after(_CLEAN_TIMEOUT_S, f"Removing the files of guests in {shell.where}", stop=removal.stop)
        shell.run(("rm", "-rf", str(GUEST_DIRECTORY / removal.lab)), deadline=deadline).expect_success()


def _leave(shell: Shell, adoption: Adoption, keys: LabKeys, removal: Removal) -> None:
    _take_down_inside(shell, removal)
    if not removal.failures:
        deadline = Deadline.after(_CLEAN_TIMEOUT_S, f"Leaving {shell.where}", stop=removal.stop)
        leave(shell, removal.lab, adoption.adopted, keys, deadline)


def _deadline(contact: Contact, removal: Removal) -> Deadline:
    purpose = f"An answer from '{contact.name}' by SSH"
    return Deadline.after(_REACH_TIMEOUT_S * contact.level, purpose, stop=removal.stop)
