"""Which domains of somebody else's a lab has adopted, or is to adopt. They bear no mark: a file of the lab's says so.

What is deleted, stopped or changed is what has a mark in its XML, so none of these ever is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from xml.etree import ElementTree

from nestctl.adapters.files import write_atomically
from nestctl.adapters.libvirt import Domain
from nestctl.adapters.ssh_options import Destination, SshOptions, parse_jump, read_options
from nestctl.errors import FailedError, PrerequisiteError, UsageError
from nestctl.lab.host_facts import Adopted
from nestctl.lab.plan import Contact, GuestPlan, settings_of_adopted
from nestctl.lab.render import Mark, parse_domain_type, parse_mark
from nestctl.lab.store import lab_directory
from nestctl.model.adopt import Adopt
from nestctl.model.lab import HYPERVISOR_RESERVE_MIB, Guest, Lab

# Beside the keys of the lab, and as private: it says which machines they open.
_FILE = "adopted.json"


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """A domain that a guest of a lab has adopted, since when (ISO 8601), and the subnets of the lab's levels."""

    name: str
    adopted: Adopted
    created: str
    subnets: tuple[str, ...]

    def mark(self, lab: str) -> Mark:
        """Return what a domain's mark would say, if it had one."""
        return Mark(
            lab=lab,
            name=self.name,
            level=1,
            address=self.adopted.host,
            is_hypervisor=True,
            digest="",
            settings=settings_of_adopted(self.adopted),
            created=self.created,
            subnets=self.subnets,
            is_adopted=True,
        )

    def contact(self, lab: str) -> Contact:
        """Say how the adopted machine is reached, for a lab of this name."""
        return Contact(
            lab=lab,
            name=self.name,
            level=1,
            domain=self.adopted.domain,
            address=self.adopted.host,
            port=self.adopted.port,
            console=PurePosixPath(lab_directory(lab)) / f"{self.name}.console.log",
            host=self.adopted.host,
            host_key=self.adopted.host_key,
            user=self.adopted.user,
        )


def read_adoptions(lab: str) -> tuple[Adoption, ...]:
    """Read what a lab has adopted. Raises `FailedError` when that cannot be read."""
    path = lab_directory(lab) / _FILE
    if not path.exists():
        return ()
    try:
        return tuple(
            Adoption(
                name=it["name"],
                adopted=Adopted(**it["adopted"]),
                created=it["created"],
                subnets=tuple(it["subnets"]),
            )
            for it in json.loads(path.read_text())
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FailedError(
            f"What the lab '{lab}' has adopted cannot be read in '{path}': {error!r}.",
            hint="What nestctl made in those machines are the domains and networks called LAB-..., and "
            "/var/lib/nestctl. Remove them by hand, then this file.",
        ) from error


def keep_adoption(plan: GuestPlan, adopted: Adopted) -> None:
    """Note that a guest has adopted its domain."""
    there = read_adoptions(plan.lab)
    earlier = next((it.created for it in there if it.name == plan.name), "")
    created = earlier or datetime.now(UTC).isoformat(timespec="seconds")
    adoption = Adoption(name=plan.name, adopted=adopted, created=created, subnets=plan.subnets)
    _write(plan.lab, (*(it for it in there if it.name != plan.name), adoption))


def drop_adoption(lab: str, name: str) -> None:
    """Forget an adoption; the note's file goes with the last one. One that is not noted is no error."""
    _write(lab, tuple(it for it in read_adoptions(lab) if it.name != name))


def _write(lab: str, adoptions: tuple[Adoption, ...]) -> None:
    path = lab_directory(lab) / _FILE
    if adoptions:
        write_atomically(path, json.dumps([asdict(it) for it in adoptions]).encode(), mode=0o600)
    else:
        path.unlink(missing_ok=True)


def account_of(lab: str, name: str) -> str:
    """Say as whom a guest of a lab is logged in to: root, or the account by which a domain was adopted."""
    return next((it.adopted.user for it in read_adoptions(lab) if it.name == name), "root")


def as_root_in(lab: str, name: str, command: Sequence[str]) -> tuple[str, ...]:
    """Return what runs a command as root where OpenSSH logs in to a guest of a lab."""
    return tuple(command) if account_of(lab, name) == "root" else ("sudo", "-n", *command)


def list_adopted_domains(domains: Iterable[Domain], lab: str) -> tuple[tuple[Domain, Adoption], ...]:
    """Find the domains that a lab has adopted; one that is not there any more is left out."""
    adoptions = {it.adopted.uuid: it for it in read_adoptions(lab)}
    if not adoptions:
        return ()
    return tuple((it, adoptions[found]) for it in domains if (found := parse_uuid(it.xml)) in adoptions)


def find_adopted(lab: Lab, domains: Iterable[Domain]) -> Mapping[str, Adopted]:
    """Look at the domains that guests of a lab adopt, by these guests' names.

    Raises `UsageError` or `PrerequisiteError` for one that cannot be adopted.
    """
    wanted = {name: guest for name, guest in lab.guests.items() if guest.adopt}
    if not wanted:
        return {}
    there = {it.name: it for it in domains}
    adoptions = {it.name: it.adopted for it in read_adoptions(lab.name)}
    found = {}
    for name, guest in wanted.items():
        if guest.adopt:
            adopted = look_at_domain(guest.adopt, there.get(guest.adopt.domain), adoptions.get(name))
            _check_memory(name, guest, adopted)
            found[name] = adopted
    return found


def look_at_domain(adopt: Adopt, domain: Domain | None, before: Adopted | None = None) -> Adopted:
    """Say what a domain is like that is to be adopted, or has been `before`. Raises as `find_adopted`."""
    if domain is None:
        raise UsageError(
            f"There is no domain '{adopt.domain}' to adopt on this machine.",
            hint="'virsh list --all' shows what is there; '--connect' says in which libvirt.",
        )
    if mark := parse_mark(domain.xml):
        raise UsageError(
            f"The domain '{adopt.domain}' is the guest '{mark.name}' of the lab '{mark.lab}'; only a domain that "
            "nestctl did not make can be adopted."
        )
    uuid = parse_uuid(domain.xml)
    if before and before.uuid != uuid:
        raise UsageError(
            f"The domain '{before.domain}' ({before.uuid}) was adopted, and '{adopt.domain}' ({uuid}) is another one.",
            hint="Remove the lab with 'nestctl down', and bring it up again.",
        )
    if not domain.is_running:
        raise PrerequisiteError(
            f"The domain '{adopt.domain}' is off, and nestctl does not start what it has not made.",
            hint=f"virsh start '{adopt.domain}'",
        )
    way = find_way(adopt)
    if before and before.user != way.user:
        raise UsageError(
            f"The domain '{before.domain}' was adopted as '{before.user}', and '{adopt.ssh}' logs in as '{way.user}'.",
            hint="Remove the lab with 'nestctl down', and bring it up again.",
        )
    cpus, memory_mib = parse_size(domain.live_xml)
    return Adopted(
        domain=adopt.domain,
        uuid=uuid,
        ssh=adopt.ssh,
        user=way.user,
        host=way.host,
        port=way.port,
        cpus=cpus,
        memory_mib=memory_mib,
        is_emulated=parse_domain_type(domain.live_xml) != "kvm",
        host_key=before.host_key if before and (before.host, before.port) == (way.host, way.port) else "",
    )


def find_way(adopt: Adopt) -> SshOptions:
    """Find out where, and as whom, the user's OpenSSH would log in. Raises `UsageError` when not directly."""
    options = read_options(destination_of(adopt.ssh))
    if options.jumps or options.proxy_command:
        raise UsageError(
            f"OpenSSH's configuration reaches '{adopt.ssh}' through something else (ProxyJump or ProxyCommand).",
            hint="Name an address of the domain that this machine reaches by itself.",
        )
    return options


def destination_of(ssh: str) -> Destination:
    """Read [USER@]HOST[:PORT]."""
    return parse_jump(ssh, Destination(host=""))


def parse_size(xml: str) -> tuple[int, int]:
    """Read how many CPUs and how much memory a domain has now, in MiB (libvirt writes it in KiB)."""
    root = ElementTree.fromstring(xml)  # noqa: S314
    kib = root.findtext("currentMemory", "") or root.findtext("memory", "0")
    vcpu = root.find("vcpu")  # its text is the most there can be, where some are not there yet
    return int(vcpu.get("current") or vcpu.text or 1) if vcpu is not None else 1, int(kib) // 1024


def parse_uuid(xml: str) -> str:
    """Read a domain's UUID, which stays when it is renamed."""
    return ElementTree.fromstring(xml).findtext("uuid", "")  # noqa: S314


def _check_memory(name: str, guest: Guest, adopted: Adopted) -> None:
    needed_mib = sum(inner.memory_mib for inner in guest.guests.values())
    if needed_mib + HYPERVISOR_RESERVE_MIB > adopted.memory_mib:
        raise PrerequisiteError(
            f"The guests in '{name}' need {needed_mib} MiB and it needs {HYPERVISOR_RESERVE_MIB} MiB itself, and the "
            f"domain '{adopted.domain}' has {adopted.memory_mib} MiB.",
            hint="Lower memory_mib in the lab file.",
        )
