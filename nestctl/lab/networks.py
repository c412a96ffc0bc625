"""A lab's own networks on this machine: what is there against what is wanted, and having them there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from nestctl.adapters.libvirt import Filter, Hypervisor, Network
from nestctl.adapters.uri import SESSION_URI
from nestctl.errors import FailedError, PrerequisiteError, UsageError
from nestctl.lab.compare import Action
from nestctl.lab.level import Step
from nestctl.lab.network_plan import NetworkPlan, filter_name, filter_owner
from nestctl.lab.render import parse_network_mark, parse_network_owner, render_filter, render_network

# What every filter of ours builds on (https://libvirt.org/formatnwfilter.html).
_BASE_FILTER = "clean-traffic"

# Without it rules about connections see no frame that comes from a bridge
# (Documentation/networking/ip-sysctl.rst, bridge-nf-call-iptables).
_BRIDGE_SETTING = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


@dataclass(frozen=True, kw_only=True)
class NetworkChange:
    """What has to be done with a network of the lab's; `plan` is None for one that is no longer wanted."""

    name: str
    action: Action
    reason: str = ""
    plan: NetworkPlan | None


def compare_networks(
    lab: str, wanted: Iterable[NetworkPlan], networks: Iterable[Network], filters: Iterable[Filter]
) -> tuple[NetworkChange, ...]:
    """Say what has to be done with a lab's networks of this machine.

    Raises `FailedError` when a network or filter of somebody else's has a name that is needed.
    """
    networks_there, filters_there = {it.name: it for it in networks}, {it.name: it for it in filters}
    wanted = tuple(wanted)
    changes = [_compare(lab, it, networks_there.get(it.name), filters_there) for it in wanted]
    names = {it.name for it in wanted}
    for network in networks_there.values():
        mark = parse_network_mark(network.xml)
        if mark and mark.lab == lab and mark.label and network.name not in names:
            reason = "it is not in the lab file"
            changes.append(NetworkChange(name=network.name, action=Action.REMOVE, reason=reason, plan=None))
    return tuple(changes)


def _compare(lab: str, plan: NetworkPlan, there: Network | None, filters: dict[str, Filter]) -> NetworkChange:
    action, reason = Action.KEEP, ""
    own_filter = filters.get(plan.filter.name) if plan.filter else None
    if there and parse_network_owner(there.xml) != lab:
        raise _stranger("network", plan.name, lab)
    if own_filter and filter_owner(own_filter.name, own_filter.uuid) != lab:
        raise _stranger("filter", own_filter.name, lab)
    if there is None:
        action = Action.CREATE
    elif differences := list(_list_differences(there.xml, render_network(plan))):
        action, reason = Action.RECREATE, ", ".join(differences)
    elif not there.is_active:
        action, reason = Action.START, "it is off"
    elif plan.filter and own_filter is None:
        action, reason = Action.CHANGE, "its filter is gone"
    elif plan.filter and own_filter and _rules(own_filter.xml) != _rules(render_filter(plan.filter)):
        action, reason = Action.CHANGE, "its filter is another one"
    return NetworkChange(name=plan.name, action=action, reason=reason, plan=plan)


def _stranger(kind: str, name: str, lab: str) -> FailedError:
    return FailedError(
        f"A {kind} '{name}' that does not belong to the lab '{lab}' is there already.",
        hint="Give the lab another name; nestctl changes only what it made.",
    )


def _list_differences(there: str, wanted: str) -> Iterator[str]:
    """Yield in words what is different in a network that guests would notice."""
    old, new = ElementTree.fromstring(there), ElementTree.fromstring(wanted)  # noqa: S314 - libvirt's and our own
    for path, key in (("forward", "mode"), ("bridge", "name"), ("ip", "address"), ("ip", "prefix")):
        before, after = (_attribute(root, path, key) for root in (old, new))
        if before != after:
            yield f"{path} {key} {before or 'nothing'} -> {after or 'nothing'}"


def _attribute(root: ElementTree.Element, path: str, key: str) -> str:
    element = root.find(path)
    return element.get(key, "") if element is not None else ""


def _rules(xml: str) -> list[str]:
    """List what is in a filter, in a form that is the same however libvirt writes it."""
    root = ElementTree.fromstring(xml)  # noqa: S314
    return sorted(f"{_flat(child)} {[_flat(it) for it in child]}" for child in root if child.tag != "uuid")


def _flat(element: ElementTree.Element) -> str:
    return f"{element.tag} {sorted(element.attrib.items())}"


def check_networks(hypervisor: Hypervisor, changes: Iterable[NetworkChange], running: Iterable[str]) -> None:
    """Raise before anything is touched, where networks cannot be had or changed; `running` are those guests are on."""
    wanted = [it for it in changes if it.plan]
    if not wanted:
        return
    if hypervisor.uri == SESSION_URI or not hypervisor.has_networks():
        raise PrerequisiteError(
            f"The connection '{hypervisor.uri}' cannot have the networks that the lab file wants: it has no bridges.",
            hint="Use '--connect qemu:///system', with libvirt's daemon running.",
        )
    if _BASE_FILTER not in {it.name for it in hypervisor.list_filters()}:
        raise PrerequisiteError(
            f"libvirt's filter '{_BASE_FILTER}', which keeps guests from using others' addresses, is missing.",
            hint="Install the package 'libvirt-daemon-config-nwfilter' and restart libvirt's daemon.",
        )
    on = set(running)
    if stuck := [it for it in wanted if it.action is Action.RECREATE and it.name in on]:
        raise UsageError(
            f"The network '{stuck[0].name}' cannot be changed while guests run on it: {stuck[0].reason}.",
            hint="Remove the lab with 'nestctl down', and bring it up again.",
        )


def check_bridge_setting(path: Path = _BRIDGE_SETTING) -> None:
    """Raise `PrerequisiteError` where this machine's firewall does not see what crosses a bridge."""
    try:
        value = path.read_text().strip()
    except OSError:
        value = "not there"
    if value != "1":
        raise PrerequisiteError(
            f"'{path}' is {value}: the filters of the lab's networks would not see who begins a connection.",
            hint="Run 'modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1', and keep both in "
            "/etc/modules-load.d and /etc/sysctl.d.",
        )


def ensure_networks(hypervisor: Hypervisor, changes: Iterable[NetworkChange], step: Step) -> None:
    """Have the lab's networks there, each with its filter first: no guest is ever on one without."""
    wanted = [(it, plan) for it in changes if (plan := it.plan) and it.action is not Action.KEEP]
    for change, plan in wanted:
        with step(f"Preparing the network {change.name}", lab=plan.lab):
            if plan.filter:
                hypervisor.define_filter(render_filter(plan.filter))
            if change.action is Action.RECREATE:
                hypervisor.remove_network(change.name)
            ensure_network(hypervisor, plan)


def prune_networks(hypervisor: Hypervisor, lab: str, changes: Iterable[NetworkChange]) -> None:
    """Remove the networks that are not in the lab file any more, once no guest is on them."""
    if names := [it.name for it in changes if it.action is Action.REMOVE]:
        remove_networks(hypervisor, lab, names)


def is_up(hypervisor: Hypervisor, network: NetworkPlan) -> bool:
    """Tell whether a network is there and active, as it is where a guest's seed had its libvirt start it."""
    return any(it.name == network.name and it.is_active for it in hypervisor.list_networks())


def ensure_network(hypervisor: Hypervisor, network: NetworkPlan) -> None:
    """Have a network defined and started. Its XML is sent only when it is not there."""
    there = {observed.name: observed for observed in hypervisor.list_networks()}
    if network.name not in there:
        hypervisor.define_network(render_network(network))
    if network.name not in there or not there[network.name].is_active:
        hypervisor.start_network(network.name)


def remove_networks(hypervisor: Hypervisor, lab: str, names: Iterable[str] | None = None) -> None:
    """Remove a lab's networks from a level, all or some, and the filters that no network of its is for any more."""
    for network in hypervisor.list_networks():
        if parse_network_owner(network.xml) == lab and (names is None or network.name in names):
            hypervisor.remove_network(network.name)
    marks = (parse_network_mark(it.xml) for it in hypervisor.list_networks())
    kept = {filter_name(mark.lab, mark.label) for mark in marks if mark and mark.label}
    for it in hypervisor.list_filters():
        if filter_owner(it.name, it.uuid) == lab and it.name not in kept:
            hypervisor.remove_filter(it.name)
