"""Every level of a lab that is up, each with a shell on it, all open at once: what measuring needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from nestctl.adapters.libvirt import Domain
from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import TalkingShell
from nestctl.adapters.uri import choose_uri
from nestctl.check import check_this_machine
from nestctl.deadline import Deadline
from nestctl.errors import UsageError
from nestctl.lab.adoption import list_adopted_domains
from nestctl.lab.host import open_connection
from nestctl.lab.keys import LabKeys, read_keys
from nestctl.lab.level import Level, boot_timeout_s, list_own_domains
from nestctl.lab.plan import Contact
from nestctl.lab.render import Mark, parse_contact, parse_domain_type
from nestctl.lab.ssh_access import open_guest, open_level_in
from nestctl.lab.store import lab_directory, read_boots
from nestctl.model.lab import Lab

# No guest can be called so: a guest's name is in lower case.
HOST_NAME = "L0"


@dataclass(frozen=True, kw_only=True)
class OpenLevel:
    """A level to work on; `above` names the one that runs it, and the outermost has none.

    `is_emulated` is also true for a KVM guest of an emulated one: its figures are no hardware's. `boot_s` are the
    times its guest took from its start until SSH answered, in seconds. `domain` is its name in libvirt.
    """

    name: str
    depth: int
    above: str | None
    shell: TalkingShell
    accelerator: str
    is_emulated: bool
    boot_s: tuple[float, ...] = ()
    domain: str = ""


@contextmanager
def open_levels(lab: Lab, *, connect: str | None) -> Iterator[tuple[OpenLevel, ...]]:
    """Open this machine and every guest of a lab, outermost first, as long as the caller works on them.

    This machine's libvirt is disconnected before the caller begins; the embedded driver stays this process's own.
    Raises `UsageError` when the lab is not up.
    """
    keys_file = lab_directory(lab.name) / "keys.json"
    if not keys_file.exists():
        raise UsageError(f"The lab '{lab.name}' is not up.", hint="Bring it up with 'nestctl up'.")
    keys, boots = read_keys(keys_file), read_boots(lab.name)
    is_emulated = check_this_machine(passive=True).assessment.is_emulated
    here = OpenLevel(name=HOST_NAME, depth=0, above=None, shell=LocalShell(), accelerator="", is_emulated=is_emulated)
    with ExitStack() as stack:
        with open_connection(choose_uri(connect)) as hypervisor:
            level = Level(shell=here.shell, hypervisor=hypervisor)
            guests = tuple(_open_inside(level, lab, keys, boots, here, stack))
        if not guests:
            raise UsageError(f"No guest of the lab '{lab.name}' runs.", hint="Bring it up with 'nestctl up'.")
        yield (here, *guests)


def _open_inside(
    level: Level, lab: Lab, keys: LabKeys, boots: dict[str, list[float]], outer: OpenLevel, stack: ExitStack
) -> Iterator[OpenLevel]:
    for domain, mark, contact in _list_guests(level, lab.name, is_outermost=outer.above is None):
        if not domain.is_running:
            continue
        domain_type = parse_domain_type(domain.live_xml)
        is_emulated = outer.is_emulated or domain_type != "kvm"
        shell = stack.enter_context(open_guest(level, contact, keys, _deadline(contact, is_emulated=is_emulated)))
        opened = OpenLevel(
            name=mark.name,
            depth=mark.level,
            above=outer.name,
            shell=shell,
            accelerator="kvm" if domain_type == "kvm" else "tcg",
            is_emulated=is_emulated,
            boot_s=tuple(boots.get(mark.name, ())),
            domain=domain.name,
        )
        yield opened
        if mark.is_hypervisor:
            with open_level_in(shell) as inner:
                yield from _open_inside(inner, lab, keys, boots, opened, stack)


def _list_guests(level: Level, lab: str, *, is_outermost: bool) -> Iterator[tuple[Domain, Mark, Contact]]:
    for domain, mark in list_own_domains(level.hypervisor, lab):
        yield domain, mark, parse_contact(domain.name, domain.xml)
    if is_outermost:
        for domain, adoption in list_adopted_domains(level.hypervisor.list_domains(), lab):
            yield domain, adoption.mark(lab), adoption.contact(lab)


def _deadline(contact: Contact, *, is_emulated: bool) -> Deadline:
    timeout_s = boot_timeout_s(contact.level, is_emulated=is_emulated)
    return Deadline.after(timeout_s, f"An answer from '{contact.name}' by SSH")
