"""Networks as they are to be: those that guests give to the guests inside them, and a lab's own on this machine.

Pure, and the one place that knows by which names networks, bridges and filters are told to be a lab's.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from nestctl.lab.addresses import Subnet
from nestctl.model.network import Network

UUID_NAMESPACE = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")  # RFC 9562, appendix: namespace of OIDs

# What is nowhere on the Internet: the special-purpose addresses of RFC 6890 that a router could have a way to,
# and multicast (RFC 5771) and reserved ones (RFC 1112).
_NOT_OUTSIDE = tuple(
    ipaddress.IPv4Network(it)
    for it in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/3",
    )
)


@dataclass(frozen=True, kw_only=True)
class FilterPlan:
    """What the guests of a network may send and receive: libvirt's clean-traffic, and whom they may talk to.

    `denied` are subnets that they reach only as far as these are `allowed`; `peers` is their own, when they may talk to
    each other. libvirt keeps no metadata of a filter: its name and UUID, which is made of that, say whose it is.
    """

    name: str
    uuid: str
    gateway: str
    peers: str
    allowed: tuple[str, ...]
    denied: tuple[str, ...]
    dns: str
    reaches_out: bool


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """A network that a guest gives to the guests inside it, or one of this machine's: `label` is its name in the lab.

    `forward` is 'nat' or 'none'.
    """

    name: str
    lab: str
    guest: str
    bridge: str
    gateway: str
    prefix: int
    forward: str = "nat"
    label: str = ""
    filter: FilterPlan | None = None


def network_inside(lab: str, guest: str, level: int, subnet: Subnet) -> NetworkPlan:
    """Plan the network that a guest gives to the guests inside it."""
    return NetworkPlan(
        name=f"{lab}-{guest}",
        lab=lab,
        guest=guest,
        bridge=f"nest{level}",
        gateway=str(subnet[1]),
        prefix=subnet.prefixlen,
    )


def plan_lab_network(
    lab: str, label: str, network: Network, subnet: Subnet, own_addresses: Iterable[str]
) -> NetworkPlan:
    """Plan a network of this machine's; `own_addresses` are the machine's."""
    name = filter_name(lab, label)
    return NetworkPlan(
        name=f"{lab}-{label}",
        lab=lab,
        guest="",
        label=label,
        bridge=bridge_name(lab, label),
        gateway=str(subnet[1]),
        prefix=subnet.prefixlen,
        forward=network.forward,
        filter=FilterPlan(
            name=name,
            uuid=filter_uuid(name),
            gateway=str(subnet[1]),
            peers="" if network.isolate_guests else str(subnet),
            allowed=network.allow,
            denied=_denied(own_addresses),
            dns=network.dns,
            reaches_out=network.forward == "nat",
        ),
    )


def _denied(own_addresses: Iterable[str]) -> tuple[str, ...]:
    """List what guests of a network reach none of: private and special addresses, and all of this machine's."""
    own = (ipaddress.IPv4Network(address) for address in own_addresses)
    return (*map(str, _NOT_OUTSIDE), *(str(it) for it in own if not any(it.subnet_of(net) for net in _NOT_OUTSIDE)))


def filter_name(lab: str, network: str) -> str:
    """Name the filter of a lab's network; a lab's name has no dot."""
    return f"nestctl.{lab}.{network}"


def filter_uuid(name: str) -> str:
    """Return the UUID that a filter of this name has when nestctl made it: libvirt keeps no metadata of filters."""
    return str(uuid.uuid5(UUID_NAMESPACE, f"nestctl/filter/{name}"))


def filter_owner(name: str, its_uuid: str) -> str:
    """Find the lab that a filter belongs to; empty when it is not ours."""
    found = re.fullmatch(r"nestctl\.([a-z0-9-]+)\.[a-z0-9-]+", name)
    return found[1] if found and its_uuid == filter_uuid(name) else ""


def bridge_name(lab: str, network: str) -> str:
    """Name a network's bridge, in the 15 characters that Linux has for it (IFNAMSIZ)."""
    return f"{bridge_prefix(lab)}{hashlib.sha256(network.encode()).hexdigest()[:5]}"


def bridge_prefix(lab: str) -> str:
    """Return what the names of all bridges of a lab begin with."""
    return f"nest{hashlib.sha256(lab.encode()).hexdigest()[:5]}"
