"""A lab as Ansible sees it: every guest at every level, each reached through those it is in.

https://docs.ansible.com/ansible/latest/dev_guide/developing_inventory.html, "Inventory script conventions".
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nestctl.errors import NotFoundOutError
from nestctl.lab.adoption import account_of
from nestctl.lab.nodes import Node
from nestctl.lab.ssh_config import GUESTS


def read_noted(directory: Path) -> Mapping[str, Mapping[str, Any]]:
    """Read what `up` noted of each guest: accelerator and address. Raises `NotFoundOutError` when it is damaged."""
    path = directory / GUESTS
    try:
        return {guest["name"]: guest for guest in json.loads(path.read_text())["guests"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotFoundOutError(
            f"'{path}' cannot be read: {error!r}.", hint="'nestctl up' writes it anew, and leaves guests as they are."
        ) from error


def render_script_list(nodes: Sequence[Node], noted: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Render what an inventory script prints for `--list`: the groups, and all hosts' variables under '_meta'."""
    variables = {node.name: host_variables(node, noted) for node in nodes}
    groups = {name: {"hosts": hosts} for name, hosts in group_nodes(nodes).items()}
    return {"all": {"children": sorted(groups)}, **groups, "_meta": {"hostvars": variables}}


def render_file(nodes: Sequence[Node], noted: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Render a static inventory: the form of Ansible's YAML files, of which JSON is a part."""
    groups = {name: {"hosts": dict.fromkeys(hosts)} for name, hosts in group_nodes(nodes).items()}
    return {"all": {"hosts": {node.name: host_variables(node, noted) for node in nodes}, "children": groups}}


def host_variables(node: Node, noted: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Render a guest's variables. OpenSSH gets the lab's configuration, which has the jumps, the key and host keys."""
    about = noted.get(node.name, {})
    account = account_of(node.lab, node.name) if node.guest.adopt else "root"
    return {
        "ansible_host": ".".join((*reversed(node.path), node.lab)),
        "ansible_user": account,
        **({} if account == "root" else {"ansible_become": True}),
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_common_args": f"-F {shlex.quote(str(node.directory / 'ssh_config'))}",
        "nestctl_lab": node.lab,
        "nestctl_level": node.level,
        "nestctl_path": list(node.path),
        "nestctl_is_hypervisor": node.guest.is_hypervisor,
        "nestctl_is_adopted": node.guest.adopt is not None,
        "nestctl_accelerator": about.get("accelerator", ""),
        "nestctl_address": about.get("address", ""),
    }


def group_nodes(nodes: Sequence[Node]) -> dict[str, list[str]]:
    """Group guests by lab, by level, by the guest they are in, and the hypervisors and the innermost ones."""
    groups: dict[str, list[str]] = {}
    for node in nodes:
        names = [f"lab_{node.lab}", f"level_{node.level}", "innermost" if not node.guest.guests else "hypervisors"]
        if node.outer:
            names.append(f"in_{node.outer}")
        for name in names:
            # Ansible warns of dashes in the names of groups.
            groups.setdefault(name.replace("-", "_"), []).append(node.name)
    return groups
