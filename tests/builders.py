"""Values the tests of labs are about, with a default for everything a test does not care for."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from nestctl.adapters.libvirt import Domain
from nestctl.lab.addresses import allocate_networks, allocate_subnets
from nestctl.lab.host_facts import HostFacts
from nestctl.lab.keys import KeyPair, LabKeys
from nestctl.lab.observe import Inside, Observed
from nestctl.lab.place import host_place
from nestctl.lab.plan import GuestPlan, depth_of, plan_lab
from nestctl.lab.render import parse_mark, render_domain
from nestctl.model.lab import Guest, Lab, walk_guests
from nestctl.model.network import Network
from nestctl.model.quota import Quota
from nestctl.model.tuning import Tuning

HOME_NETWORK = ipaddress.IPv4Network("192.168.1.0/24")


def chain(depth: int) -> Guest:
    """A guest in a guest in a guest: `depth` levels, each with room for those inside it."""
    inner = {f"l{depth}": Guest(memory_mib=512)}
    for level in range(depth - 1, 0, -1):
        inner = {f"l{level}": Guest(memory_mib=512 + 1024 * (depth - level), guests=inner)}
    return inner["l1"]


def lab_of_depth(depth: int, name: str = "demo") -> Lab:
    return Lab(name=name, guests={"l1": chain(depth)})


def class_of(*students: str) -> Lab:
    """A lab of students, each with a guest that has a guest inside."""
    inner = {name: {f"{name}-vm": Guest(memory_mib=512)} for name in students}
    return Lab(name="class", guests={name: Guest(memory_mib=2048, guests=inner[name]) for name in students})


def host_facts(lab: Lab, **changes: Any) -> HostFacts:
    """A host with KVM on Intel; `is_emulated`, `directory` and `image` say what its place is like."""
    is_emulated = changes.pop("is_emulated", False)
    place = host_place(
        Path(changes.pop("directory", "/var/lib/nestctl/labs/" + lab.name)),
        Path(changes.pop("image", "/var/cache/nestctl/images/debian")),
        is_emulated=is_emulated,
        is_slow=is_emulated,
    )
    facts: dict[str, Any] = {
        "place": place,
        "cpu_feature": "vmx",
        "image_digest": "a1" * 32,
        "subnets": allocate_subnets(depth_of(lab.guests), [HOME_NETWORK]),
        "ports": {name: 20_000 + index for index, name in enumerate(lab.guests)},
    }
    subnets = facts["subnets"]
    facts["networks"] = allocate_networks(lab.networks, (HOME_NETWORK, *subnets), {})
    return HostFacts(**{**facts, **changes})


def plans_of(lab: Lab, **changes: Any) -> tuple[GuestPlan, ...]:
    return plan_lab(lab, host_facts(lab, **changes))


def plan_of_depth(depth: int, **changes: Any) -> GuestPlan:
    return plans_of(lab_of_depth(depth), **changes)[0]


LIMITS = Quota(
    cpu_shares=512,
    cpu_cap_percent=150,
    memory_limit_mib=2048,
    disk_read_mib_s=100,
    disk_write_mib_s=50,
    disk_read_iops=2000,
    disk_write_iops=1000,
    network_in_mbit_s=200,
    network_out_mbit_s=100,
)


def lab_of_tenants(**changes: Any) -> Lab:
    """Two tenants, each with a network and a guest in its guest; `changes` are those of the lab."""
    guests = {
        name: Guest(network=name, memory_mib=1536, guests={f"{name}-vm": Guest(memory_mib=512)})
        for name in ("blue", "green")
    }
    return Lab(**{"name": "isp", "networks": {"blue": Network(), "green": Network()}, "guests": guests, **changes})


def limited_plan() -> GuestPlan:
    """A guest with every limit there is, on a network that keeps guests apart."""
    lab = Lab(
        name="demo",
        networks={"blue": Network(isolate_guests=True)},
        guests={"l1": Guest(network="blue", quota=LIMITS, nesting=True)},
    )
    return plans_of(lab)[0]


def tuned_plan() -> GuestPlan:
    """A guest whose QEMU is set up in every way there is."""
    tuning = Tuning(
        disk_cache="none",
        disk_io="native",
        disk_iothread=True,
        huge_pages=True,
        vcpu_pins=(3, 2),
        emulator_pins=(0, 1),
    )
    return plans_of(Lab(name="demo", guests={"a": Guest(cpus=2, nesting=True, tuning=tuning)}))[0]


def recognizable_keys(guests: Mapping[str, Guest]) -> LabKeys:
    """Keys that are no keys, but say whose they would be."""
    return LabKeys(client=_pair("client"), hosts={name: _pair(name) for name, _ in walk_guests(guests)})


def seen(plans: tuple[GuestPlan, ...]) -> Inside:
    """What is seen of guests that all run as they were planned."""
    return Inside(guests=tuple(_seen(plan) for plan in plans))


def _seen(plan: GuestPlan) -> Observed:
    xml = render_domain(plan)
    mark = parse_mark(xml)
    assert mark
    return Observed(
        domain=Domain(name=plan.domain, is_running=True, xml=xml, live_xml=xml),
        mark=mark,
        contact=plan.contact,
        inside=seen(plan.guests) if plan.is_hypervisor else None,
    )


def parse_xml(text: str) -> ElementTree.Element:
    """Parse XML that we rendered ourselves."""
    return ElementTree.fromstring(text)  # noqa: S314


def _pair(name: str) -> KeyPair:
    return KeyPair(private=f"the private key of {name}\n", public=f"ssh-ed25519 {name}")
