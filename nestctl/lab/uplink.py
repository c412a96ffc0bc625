"""How each guest of a lab reaches out and is reached, by the addresses, ports and networks that its host has for it."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace

from nestctl.lab.addresses import FIRST_GUEST, Subnet
from nestctl.lab.host_facts import HostFacts
from nestctl.lab.network_plan import NetworkPlan, filter_name
from nestctl.model.lab import Lab


@dataclass(frozen=True, kw_only=True)
class Uplink:
    """How a guest reaches out and is reached: by a `port` of `host`, or in `network` of the hypervisor's.

    A closed one has no way out; one that is isolated does not reach others of its network; `filter` names its filter.
    """

    mac: str
    address: str
    gateway: str
    subnet: str
    dns: str
    network: str = ""
    port: int = 0
    host: str = "127.0.0.1"
    filter: str = ""
    is_isolated: bool = False
    is_closed: bool = False


def plan_outermost_uplinks(lab: Lab, host: HostFacts) -> dict[str, Uplink]:
    """Plan how the guests of the host are reached, by their names."""
    uplinks: dict[str, Uplink] = {}
    indices: Counter[str] = Counter()
    for name, guest in lab.guests.items():
        if guest.adopt:
            adopted = host.adopted[name]
            uplinks[name] = Uplink(
                mac="",
                address=adopted.host,
                gateway="",
                subnet="",
                dns=guest.adopt.dns,
                host=adopted.host,
                port=adopted.port,
            )
        elif guest.network:
            network, subnet = lab.networks[guest.network], host.networks[guest.network]
            uplinks[name] = Uplink(
                mac=_mac(lab.name, name),
                address=str(subnet[FIRST_GUEST + indices[guest.network]]),
                gateway=str(subnet[1]),
                dns=network.dns,
                subnet=str(subnet),
                network=f"{lab.name}-{guest.network}",
                filter=filter_name(lab.name, guest.network),
                is_isolated=network.isolate_guests,
            )
            indices[guest.network] += 1
        else:
            uplink = _forwarded_uplink(lab.name, name, host.subnets[0], host.ports[name])
            uplinks[name] = replace(uplink, is_closed=lab.is_closed(guest))
    return uplinks


def _forwarded_uplink(lab: str, name: str, subnet: Subnet, port: int) -> Uplink:
    return Uplink(
        mac=_mac(lab, name),
        address=str(subnet[FIRST_GUEST]),
        # QEMU's user-mode network has its gateway at .2 and its name server at .3 (QEMU manual, "Network emulation").
        gateway=str(subnet[2]),
        dns=str(subnet[3]),
        subnet=str(subnet),
        port=port,
    )


def plan_uplink_inside(
    lab: str, name: str, index: int, level: int, network: NetworkPlan, outer: Uplink, host: HostFacts
) -> Uplink:
    """Plan how a guest inside another is reached: the `index`-th in its network, counted from 0."""
    subnet = host.subnets[level]
    return Uplink(
        mac=_mac(lab, name),
        address=str(subnet[FIRST_GUEST + index]),
        gateway=network.gateway,
        dns=outer.dns,
        subnet=str(subnet),
        network=network.name,
    )


def _mac(lab: str, name: str) -> str:
    """A MAC address in QEMU's range 52:54:00, the same for the same guest."""
    digest = hashlib.sha256(f"{lab}/{name}".encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])
