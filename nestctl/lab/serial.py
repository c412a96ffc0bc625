"""Get at a guest's serial console, to type at it: what is left when its network or its SSH does not work."""

from __future__ import annotations

import sys

from nestctl.adapters.uri import SYSTEM_URI, choose_uri
from nestctl.errors import GuestError, PrerequisiteError
from nestctl.lab.adoption import as_root_in
from nestctl.lab.host import open_connection
from nestctl.lab.nodes import Node
from nestctl.lab.render import parse_terminal
from nestctl.lab.ssh_config import ssh_command

# A terminal is asked for even where ours is none: virsh wants one.
_WITH_TERMINAL = ("-tt",)


def console_command(node: Node, *, connect: str | None) -> tuple[str, ...]:
    """Return the command that joins this terminal to a guest's serial console, at any level; Ctrl-] ends it.

    Raises `GuestError` when the guest does not run.
    """
    domain = node.guest.adopt.domain if node.guest.adopt else f"{node.lab}-{node.name}"
    if node.outer:
        words = as_root_in(node.lab, node.outer, _virsh(SYSTEM_URI, domain))
        return ssh_command(node.directory, node.outer, words, _WITH_TERMINAL)
    uri = choose_uri(connect)
    with open_connection(uri) as hypervisor:
        found = {it.name: it for it in hypervisor.list_domains()}.get(domain)
    if found is None or not found.is_running:
        raise GuestError(f"The guest '{node.name}' does not run.", hint=f"Start it with 'nestctl up {node.lab}'.")
    if "/embed" not in uri:
        return _virsh(uri, domain)
    # Without a daemon this process would keep the driver from others for as long as it lives: it becomes another.
    if not (terminal := parse_terminal(found.live_xml)):
        raise PrerequisiteError(f"The console of '{node.name}' is no terminal: an older nestctl made the guest.")
    return (sys.executable, "-m", "nestctl.adapters.terminal", terminal)


def _virsh(uri: str, domain: str) -> tuple[str, ...]:
    return ("virsh", "-c", uri, "console", domain)
