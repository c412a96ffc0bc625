"""What is there of a lab, asked of libvirt at each level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from nestctl.adapters.process import LocalShell
from nestctl.adapters.uri import choose_uri
from nestctl.lab.access import SshAccess
from nestctl.lab.adoption import parse_size
from nestctl.lab.host import open_connection
from nestctl.lab.level import Level
from nestctl.lab.observe import Inside, Observed, look_at, observe
from nestctl.lab.profiles import find_profile
from nestctl.lab.render import parse_domain_type
from nestctl.model.lab import Guest, Lab


@dataclass(frozen=True, kw_only=True)
class GuestStatus:
    """One guest as it is seen now.

    `state` is 'running', 'off', 'absent' or 'unreachable' (it runs, but does not answer). `accelerator` is the
    hypervisor the guest itself sees: 'kvm', or 'qemu' when it is emulated; empty when it could not be asked. `age_s`
    is the time since it was made, in seconds, or adopted: its domain is then somebody else's.
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
    age_s: int | None = None
    is_adopted: bool = False


def read_status(lab: Lab, *, connect: str | None) -> tuple[GuestStatus, ...]:
    """Ask every level of a lab what is there."""
    with open_connection(choose_uri(connect)) as hypervisor:
        level = Level(shell=LocalShell(), hypervisor=hypervisor)
        there = observe(level, look_at(lab, access=SshAccess(), is_thorough=True))
    return judge(lab, lab.guests, there, now=datetime.now(UTC))


def is_up(statuses: tuple[GuestStatus, ...]) -> bool:
    """Tell whether every guest of the lab runs."""
    return all(status.state == "running" and is_up(status.guests) for status in statuses)


def judge(
    lab: Lab, guests: Mapping[str, Guest], there: Inside | None, *, now: datetime, depth: int = 1
) -> tuple[GuestStatus, ...]:
    """Say of every guest of a lab what was seen of it."""
    observed = {it.mark.name: it for it in there.guests} if there else {}
    return tuple(_judge(lab, name, guest, observed.get(name), now, depth) for name, guest in guests.items())


def _judge(lab: Lab, name: str, guest: Guest, there: Observed | None, now: datetime, depth: int) -> GuestStatus:
    status = _absent(lab, name, guest, depth)
    if there is None:
        return status
    is_silent = not find_profile(guest.profile).answers
    has_answered = is_silent or (there.truth is not None and (there.inside is not None or not guest.guests))
    if guest.adopt:
        # Its lab file says nothing of its size.
        cpus, memory_mib = parse_size(there.domain.live_xml or there.domain.xml)
        status = replace(status, cpus=cpus, memory_mib=memory_mib)
    return replace(
        status,
        state="off" if not there.is_running else "running" if has_answered else "unreachable",
        domain_type=parse_domain_type(there.domain.live_xml or there.domain.xml),
        accelerator=there.truth.signature if there.truth and has_answered else "",
        address=there.contact.address,
        ssh_port=there.contact.port,
        age_s=age_s(there.mark.created, now),
        guests=judge(lab, guest.guests, there.inside, now=now, depth=depth + 1) if there.inside else status.guests,
    )


def age_s(created: str, now: datetime) -> int | None:
    """Count the seconds since a guest was made; None when its mark does not say."""
    try:
        return max(0, int((now - datetime.fromisoformat(created)).total_seconds()))
    except (ValueError, TypeError):
        return None


def _absent(lab: Lab, name: str, guest: Guest, depth: int) -> GuestStatus:
    return GuestStatus(
        name=name,
        level=depth,
        state="absent",
        domain=guest.adopt.domain if guest.adopt else f"{lab.name}-{name}",
        domain_type="",
        accelerator="",
        address="",
        ssh_port=0,
        cpus=guest.cpus,
        memory_mib=guest.memory_mib,
        is_adopted=guest.adopt is not None,
        guests=tuple(_absent(lab, inner, settings, depth + 1) for inner, settings in guest.guests.items()),
    )
