"""What is there of a lab, asked of libvirt at each level."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nestctl.adapters.libvirt import Domain, choose_uri
from nestctl.adapters.process import LocalShell
from nestctl.adapters.ssh import SshShell
from nestctl.deadline import Deadline
from nestctl.errors import NestctlError
from nestctl.lab.host import open_connection
from nestctl.lab.keys import LabKeys, read_keys
from nestctl.lab.level import Level, list_own_domains, open_guest, open_level_in
from nestctl.lab.render import parse_contact, parse_domain_type
from nestctl.lab.store import lab_directory
from nestctl.lab.verify import read_truth
from nestctl.model.lab import Guest, Lab

# A guest that runs answers within this time, a level; one that boots may be looked at again.
_REACH_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class GuestStatus:
    """One guest as it is seen now.

    `state` is 'running', 'off', 'absent' or 'unreachable' (it runs, but does not answer). `accelerator` is the
    hypervisor the guest itself sees: 'kvm', or 'qemu' when it is emulated; empty when it could not be asked.
    """

    name: str
    level: int
    state: str
    domain: str
    domain_type: str
    accelerator: str
    address: str
    ssh_port: int
    cpus: int
    memory_mib: int
    guests: tuple[GuestStatus, ...]


def read_status(lab: Lab, *, connect: str | None) -> tuple[GuestStatus, ...]:
    """Ask every level of a lab what is there."""
    keys_file = lab_directory(lab.name) / "keys.json"
    keys = read_keys(keys_file) if keys_file.exists() else None
    with open_connection(choose_uri(connect)) as hypervisor:
        return _read_level(Level(shell=LocalShell(), hypervisor=hypervisor), lab, lab.guests.items(), keys, 1)


def is_up(statuses: tuple[GuestStatus, ...]) -> bool:
    """Tell whether every guest of the lab runs."""
    return all(status.state == "running" and is_up(status.guests) for status in statuses)


def _read_level(level: Level, lab: Lab, guests: Any, keys: LabKeys | None, depth: int) -> tuple[GuestStatus, ...]:
    domains = {mark.name: domain for domain, mark in list_own_domains(level.hypervisor, lab.name)}
    return tuple(_read_guest(level, lab, name, guest, domains.get(name), keys, depth) for name, guest in guests)


def _read_guest(
    level: Level, lab: Lab, name: str, guest: Guest, domain: Domain | None, keys: LabKeys | None, depth: int
) -> GuestStatus:
    status = _absent(lab, name, guest, depth)
    if domain is None:
        return status
    contact = parse_contact(domain.name, domain.xml)
    status = replace(
        status,
        state="off",
        domain_type=parse_domain_type(domain.xml),
        address=contact.address,
        ssh_port=contact.port,
    )
    if not domain.is_running or keys is None or name not in keys.hosts:
        return replace(status, state="unreachable" if domain.is_running else "off")
    deadline = Deadline.after(_REACH_TIMEOUT_S * depth, f"An answer from '{name}' by SSH")
    try:
        with open_guest(level, contact, keys, deadline) as shell:
            truth = read_truth(shell, deadline)
            inside = _read_inside(shell, lab, guest, keys, depth) if guest.guests else ()
    except NestctlError:
        return replace(status, state="unreachable")
    return replace(status, state="running", accelerator=truth.signature, guests=inside)


def _read_inside(shell: SshShell, lab: Lab, guest: Guest, keys: LabKeys, depth: int) -> tuple[GuestStatus, ...]:
    with open_level_in(shell) as inner:
        return _read_level(inner, lab, guest.guests.items(), keys, depth + 1)


def _absent(lab: Lab, name: str, guest: Guest, depth: int) -> GuestStatus:
    return GuestStatus(
        name=name,
        level=depth,
        state="absent",
        domain=f"{lab.name}-{name}",
        domain_type="",
        accelerator="",
        address="",
        ssh_port=0,
        cpus=guest.cpus,
        memory_mib=guest.memory_mib,
        guests=tuple(_absent(lab, inner, settings, depth + 1) for inner, settings in guest.guests.items()),
    )
