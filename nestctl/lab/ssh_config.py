"""Write what OpenSSH needs to reach every guest of a lab: `ssh -F ssh_config l2` hops through each level by itself."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nestctl.adapters.files import write_atomically
from nestctl.lab.keys import LabKeys
from nestctl.lab.plan import GuestPlan
from nestctl.lab.report import render_plans

# For ~/.ssh/config to include: full names only.
INCLUDED = "ssh_include"

# What inventories say of guests beside how they are reached, without asking every level's libvirt.
GUESTS = "guests.json"


@dataclass(frozen=True, kw_only=True)
class Access:
    """How guests are logged in to: files of OpenSSH's, and the host through which those of this machine are reached.

    With `has_short_names` a guest is called 'l2' beside 'l2.l1.LAB': not where other hosts have names, too.
    """

    known_hosts: str
    key: str
    jump: str = ""
    has_short_names: bool = True


def write_ssh_config(directory: Path, plans: tuple[GuestPlan, ...], keys: LabKeys) -> None:
    """Write what clients need into a lab's directory, each file whole; client_key has mode 0600."""
    write_atomically(directory / "client_key", keys.client.private.encode(), mode=0o600)
    write_atomically(directory / "known_hosts", render_known_hosts(keys, keys.hosts, plans).encode())
    access = own_access(directory)
    included = replace(access, has_short_names=False)
    write_atomically(directory / INCLUDED, render_ssh_config(plans, included).encode())
    write_atomically(directory / GUESTS, json.dumps(render_plans(plans)).encode())
    write_atomically(directory / "ssh_config", render_ssh_config(plans, access).encode())


def own_access(directory: Path) -> Access:
    """Return how the lab's owner logs in to its guests."""
    return Access(known_hosts=str(directory / "known_hosts"), key=str(directory / "client_key"))


def render_known_hosts(keys: LabKeys, guests: Iterable[str], plans: Iterable[GuestPlan] = ()) -> str:
    """Render the host keys of guests: those that nestctl made, and of `plans` those that it has adopted."""
    adopted = {it.name: it.adopted.host_key for it in plans if it.adopted}
    return "".join(f"{name} {adopted.get(name) or keys.hosts[name].public}\n" for name in sorted(guests))


def ssh_command(directory: Path, guest: str, command: Sequence[str], options: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the OpenSSH command that logs in to a guest. One word is a shell's text; more words stay apart there."""
    words = command if len(command) <= 1 else (shlex.join(command),)
    return ("ssh", "-F", str(directory / "ssh_config"), *options, "--", guest, *words)


def render_ssh_config(plans: tuple[GuestPlan, ...], access: Access) -> str:
    """Render an OpenSSH configuration: one Host a guest, with ProxyJump to the guest it is in (ssh_config(5))."""
    return "\n".join(_render_hosts(plans, access, ()))


def _render_hosts(plans: tuple[GuestPlan, ...], access: Access, outer: tuple[str, ...]) -> list[str]:
    hosts = []
    for plan in plans:
        names = _names((*outer, plan.name), plan.lab, access)
        jump = _names(outer, plan.lab, access)[0] if outer else access.jump
        lines = [
            f"Host {' '.join(names)}",
            f"    HostName {plan.uplink.host if plan.uplink.port else plan.uplink.address}",
            f"    Port {plan.uplink.port or 22}",
            f"    User {plan.contact.user}",
            f"    HostKeyAlias {plan.name}",
            f'    UserKnownHostsFile "{access.known_hosts}"',
            "    GlobalKnownHostsFile /dev/null",
            "    StrictHostKeyChecking yes",
            f'    IdentityFile "{access.key}"',
            "    IdentitiesOnly yes",
            "    LogLevel ERROR",
        ]
        if jump:
            lines.append(f"    ProxyJump {jump}")
        hosts.append("\n".join(lines) + "\n")
        hosts += _render_hosts(plan.guests, access, (*outer, plan.name))
    return hosts


def _names(path: tuple[str, ...], lab: str, access: Access) -> tuple[str, ...]:
    """Name a guest, innermost first as DNS does: 'l2.l1.LAB', and where it may be, 'l2' before."""
    full = ".".join((*reversed(path), lab))
    return (path[-1], full) if access.has_short_names else (full,)
