"""The hosts of an Ansible inventory as targets: those that Ansible would see, by the variables it connects with.

https://docs.ansible.com/ansible/latest/inventory_guide/intro_inventory.html, "Connecting to hosts: behavioral
inventory parameters".
"""

from __future__ import annotations

import getopt
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nestctl.adapters.ansible import list_inventory
from nestctl.adapters.ssh_options import Destination
from nestctl.errors import UsageError
from nestctl.targets.target import Target

_BY_SSH = frozenset({"smart", "ssh", "paramiko", "paramiko_ssh", "ansible.builtin.ssh", "ansible.builtin.paramiko_ssh"})
_LOCAL = frozenset({"local", "ansible.builtin.local"})

# Variables with options for the program `ssh`, in the order in which Ansible gives them.
_ARGUMENTS = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")

# The options of ssh(1) that take a value; of the others only their letters are known.
_SSH_OPTIONS = "B:b:c:D:E:e:F:I:i:J:L:l:m:O:o:P:p:Q:R:S:W:w:46AaCfGgKkMNnqsTtVvXxYy"


def read_inventory(inventory: str, *, limit: str = "") -> tuple[Target, ...]:
    """Read the hosts of an inventory, in its order. Raises `UsageError` when it is wrong or names no host."""
    document = list_inventory(inventory, limit=limit)
    variables = document.get("_meta", {}).get("hostvars", {})
    targets = tuple(_make_target(name, variables.get(name, {})) for name in _list_hosts(document, "all"))
    if not targets:
        like = f" like '{limit}'" if limit else ""
        raise UsageError(f"The inventory '{inventory}' has no host{like}.")
    return targets


def _make_target(name: str, variables: Mapping[str, Any]) -> Target:
    try:
        return parse_host(name, variables)
    except UsageError as error:
        return Target(name=name, problem=error.message)


def _list_hosts(document: Mapping[str, Any], group: str) -> Iterator[str]:
    """Yield every host once, group by group."""
    seen: set[str] = set()
    groups = [group]
    while groups:
        name = groups.pop(0)
        about = document.get(name, {})
        for host in about.get("hosts", ()):
            if host not in seen:
                seen.add(host)
                yield host
        groups = [*about.get("children", ()), *groups]


def parse_host(name: str, variables: Mapping[str, Any]) -> Target:
    """Make a target of a host. Raises `UsageError` for a connection that is not SSH, and for a template."""
    connection = _value(name, variables, "ansible_connection") or "ssh"
    if connection in _LOCAL:
        return Target(name=name)
    if connection not in _BY_SSH:
        raise UsageError(f"The host '{name}' is reached by '{connection}'; only SSH and 'local' are understood here.")
    file, settings = _parse_arguments(name, variables)
    port = _value(name, variables, "ansible_port") or _value(name, variables, "ansible_ssh_port")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"The host '{name}' has 'ansible_port: {port}'; it is a number from 1 to 65535.")
    key = _value(name, variables, "ansible_ssh_private_key_file") or _value(name, variables, "ansible_private_key_file")
    destination = Destination(
        host=_value(name, variables, "ansible_host") or _value(name, variables, "ansible_ssh_host") or name,
        user=_value(name, variables, "ansible_user") or _value(name, variables, "ansible_ssh_user"),
        port=int(port or 0),
        file=file,
        settings=((f'IdentityFile "{key}"',) if key else ()) + settings,
    )
    return Target(name=name, destination=destination)


def _value(host: str, variables: Mapping[str, Any], name: str) -> str:
    value = str(variables.get(name, "") or "")
    if "{{" in value:
        raise UsageError(f"The host '{host}' has '{name}: {value}', a template, which only a play can fill in.")
    return value


def _parse_arguments(host: str, variables: Mapping[str, Any]) -> tuple[Path | None, tuple[str, ...]]:
    """Read options of ssh(1): -F, -i, -J, -l, -p and -o mean the same here, others change nothing that counts."""
    file: Path | None = None
    settings: list[str] = []
    for name in _ARGUMENTS:
        text = _value(host, variables, name)
        try:
            pairs, rest = getopt.getopt(shlex.split(text), _SSH_OPTIONS)
        except (getopt.GetoptError, ValueError) as error:
            raise UsageError(f"The host '{host}' has '{name}: {text}', and that is not ssh's: {error}.") from error
        if rest:
            raise UsageError(f"The host '{host}' has '{name}: {text}', and '{rest[0]}' is no option of ssh's.")
        for option, value in pairs:
            if option == "-F":
                file = Path(value).expanduser()
            keyword = {"-i": "IdentityFile ", "-J": "ProxyJump ", "-l": "User ", "-p": "Port ", "-o": ""}.get(option)
            if keyword is not None:
                settings.append(keyword + value.replace("=", " ", 1) if option == "-o" else keyword + value)
    return file, tuple(settings)
