"""Write what OpenSSH needs to reach every guest of a lab: `ssh -F ssh_config l2` hops through each level by itself."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from nestctl.adapters.files import write_atomically
from nestctl.lab.keys import LabKeys
from nestctl.lab.plan import GuestPlan


def write_ssh_config(directory: Path, plans: tuple[GuestPlan, ...], keys: LabKeys) -> None:
    """Write ssh_config, known_hosts and client_key (mode 0600) into a lab's directory, each whole."""
    write_atomically(directory / "client_key", keys.client.private.encode(), mode=0o600)
    known = "".join(f"{name} {pair.public}\n" for name, pair in sorted(keys.hosts.items()))
    write_atomically(directory / "known_hosts", known.encode())
    write_atomically(directory / "ssh_config", render_ssh_config(directory, plans).encode())


def ssh_command(directory: Path, guest: str, command: Sequence[str], options: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the OpenSSH command that logs in to a guest. One word is a shell's text; more words stay apart there."""
    words = command if len(command) <= 1 else (shlex.join(command),)
    return ("ssh", "-F", str(directory / "ssh_config"), *options, "--", guest, *words)


def render_ssh_config(directory: Path, plans: tuple[GuestPlan, ...]) -> str:
    """Render an OpenSSH configuration: one Host a guest, with ProxyJump to the guest it is in (ssh_config(5))."""
    return "\n".join(_render_hosts(directory, plans, ""))


def _render_hosts(directory: Path, plans: tuple[GuestPlan, ...], outer: str) -> list[str]:
    hosts = []
    for plan in plans:
        lines = [
            f"Host {plan.name}",
            f"    HostName {plan.uplink.address if outer else '127.0.0.1'}",
            f"    Port {plan.uplink.port or 22}",
            "    User root",
            f"    HostKeyAlias {plan.name}",
            f'    UserKnownHostsFile "{directory / "known_hosts"}"',
            "    GlobalKnownHostsFile /dev/null",
            "    StrictHostKeyChecking yes",
            f'    IdentityFile "{directory / "client_key"}"',
            "    IdentitiesOnly yes",
            "    LogLevel ERROR",
        ]
        if outer:
            lines.append(f"    ProxyJump {outer}")
        hosts.append("\n".join(lines) + "\n")
        hosts += _render_hosts(directory, plan.guests, plan.name)
    return hosts
