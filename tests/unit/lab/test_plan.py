"""Plans of any depth. What is tested for two levels is tested for one, three and five as well."""

from __future__ import annotations

import ipaddress
from pathlib import PurePosixPath
from typing import Any

import pytest

from nestctl.lab.parse import read_lab
from nestctl.lab.plan import GuestPlan, depth_of, plan_networks, walk_plans
from nestctl.lab.render import render_domain, render_filter, render_network
from nestctl.model.lab import Guest, Lab
from nestctl.paths import resource
from tests.builders import host_facts, lab_of_depth, parse_xml, plan_of_depth, plans_of

DEPTHS = (1, 2, 3, 5)

SIBLINGS = Lab(
    name="demo",
    guests={
        "a": Guest(memory_mib=2048, guests={"a1": Guest(memory_mib=512), "a2": Guest(memory_mib=512)}),
        "b": Guest(memory_mib=2048, guests={"b1": Guest(memory_mib=512)}),
    },
)


def walk(depth: int, **changes: Any) -> list[GuestPlan]:
    return list(walk_plans((plan_of_depth(depth, **changes),)))


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_level_is_planned_once_outermost_first(depth: int) -> None:
    plans = walk(depth)
    assert [plan.name for plan in plans] == [f"l{level}" for level in range(1, depth + 1)]
    assert [plan.level for plan in plans] == list(range(1, depth + 1))
    assert depth_of(lab_of_depth(depth).guests) == depth


@pytest.mark.parametrize("depth", DEPTHS)
def test_only_the_innermost_is_no_hypervisor(depth: int) -> None:
    assert [plan.is_hypervisor for plan in walk(depth)] == [True] * (depth - 1) + [False]
    assert [plan.network is not None for plan in walk(depth)] == [True] * (depth - 1) + [False]


@pytest.mark.parametrize("depth", DEPTHS)
def test_only_the_outermost_can_be_emulated_and_has_a_port(depth: int) -> None:
    plans = walk(depth, is_emulated=True)
    assert [plan.place.is_emulated for plan in plans] == [True] + [False] * (depth - 1)
    assert [plan.uplink.port for plan in plans] == [20_000] + [0] * (depth - 1)


@pytest.mark.parametrize("depth", DEPTHS)
def test_no_subnet_is_used_twice_and_addresses_lie_in_theirs(depth: int) -> None:
    plans = walk(depth)
    subnets = [ipaddress.ip_network(plan.uplink.subnet) for plan in plans]
    assert len(set(subnets)) == depth
    for plan, subnet in zip(plans, subnets, strict=True):
        assert ipaddress.ip_address(plan.uplink.address) in subnet
        assert ipaddress.ip_address(plan.uplink.gateway) in subnet
        assert plan.uplink.address != plan.uplink.gateway


def test_a_guest_is_on_the_network_of_the_guest_it_is_in() -> None:
    outer, inner, innermost = walk(3)
    for above, below in ((outer, inner), (inner, innermost)):
        assert above.network
        assert below.uplink.network == above.network.name
        assert below.uplink.gateway == above.network.gateway
    assert outer.network
    assert inner.network
    assert outer.network.bridge != inner.network.bridge


def test_every_guest_asks_the_outermost_name_server() -> None:
    assert {plan.uplink.dns for plan in walk(5)} == {"10.213.0.3"}


def test_files_lie_where_each_machine_has_them() -> None:
    outer, inner, innermost = walk(3, directory="/d", image="/i")
    assert (outer.disk, outer.seed, outer.console) == tuple(
        PurePosixPath(f"/d/l1.{end}") for end in ("qcow2", "seed.tar", "console.log")
    )
    assert outer.place.base == PurePosixPath("/i/disk.raw")
    assert not outer.place.base_is_block
    assert inner.place == innermost.place
    assert inner.disk == PurePosixPath("/var/lib/nestctl/guests/demo/l2.qcow2")
    assert inner.place.base_is_block


def test_siblings_share_nothing() -> None:
    plans = list(walk_plans(plans_of(SIBLINGS)))
    assert [plan.name for plan in plans] == ["a", "a1", "a2", "b", "b1"]
    for distinct in ("domain", "uuid", "disk", "seed", "console"):
        assert len({getattr(plan, distinct) for plan in plans}) == len(plans), distinct
    assert len({plan.uplink.mac for plan in plans}) == len(plans)
    assert plans[1].uplink.address != plans[2].uplink.address
    assert len({plan.uplink.port for plan in plans if plan.level == 1}) == 2


def test_the_same_lab_and_facts_give_the_same_plan() -> None:
    assert plans_of(SIBLINGS) == plans_of(SIBLINGS)


def test_labs_of_another_name_share_no_identity() -> None:
    one, other = (plans_of(lab_of_depth(1, name))[0] for name in ("demo", "other"))
    assert one.uuid != other.uuid
    assert one.uplink.mac != other.uplink.mac
    assert one.domain != other.domain


def test_a_contact_says_all_that_reaching_a_guest_takes() -> None:
    outer, inner = walk(2)
    assert (outer.contact.port, outer.contact.address) == (20_000, "10.213.0.10")
    assert (inner.contact.port, inner.contact.address) == (0, "10.213.1.10")
    assert inner.contact.domain == "demo-l2"
    assert inner.contact.console == inner.console


CHANGES: dict[str, tuple[Guest, dict[str, Any]]] = {
    "cpus": (Guest(cpus=2), {}),
    "memory": (Guest(memory_mib=2048), {}),
    "disk": (Guest(disk_gib=9), {}),
    "a guest inside": (Guest(memory_mib=1024, guests={"l2": Guest(memory_mib=512)}), {}),
    "the image": (Guest(), {"image_digest": "b2" * 32}),
    "the accelerator": (Guest(), {"is_emulated": True}),
    "the subnet": (Guest(), {"subnets": tuple(ipaddress.IPv4Network(f"10.9.{n}.0/24") for n in range(2))}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_digest_changes_with(what: str) -> None:
    guest, changes = CHANGES[what]
    before = plans_of(Lab(name="demo", guests={"l1": Guest()}))[0]
    assert plans_of(Lab(name="demo", guests={"l1": guest}), **changes)[0].digest != before.digest


def test_the_digest_stays_when_the_port_changes() -> None:
    lab = lab_of_depth(2)
    one, other = (plans_of(lab, ports={"l1": port})[0] for port in (20_000, 20_001))
    assert one.digest == other.digest
    assert one != other


def test_the_digest_of_a_hypervisor_stays_when_a_guest_inside_it_changes() -> None:
    """It is the guest inside that is another one then; what runs it need not be made anew."""
    one = plans_of(Lab(name="demo", guests={"l1": Guest(memory_mib=2048, guests={"l2": Guest(memory_mib=512)})}))[0]
    other = plans_of(Lab(name="demo", guests={"l1": Guest(memory_mib=2048, guests={"l2": Guest(memory_mib=600)})}))[0]
    assert one.digest == other.digest
    assert one.guests[0].digest != other.guests[0].digest


@pytest.mark.parametrize("template", sorted(path.stem for path in resource("templates", "labs").glob("*.yaml")))
@pytest.mark.parametrize("is_emulated", [False, True])
def test_every_sample_lab_can_be_planned_and_rendered(template: str, is_emulated: bool) -> None:
    lab = read_lab(resource("templates", f"labs/{template}.yaml"))
    facts = host_facts(lab, is_emulated=is_emulated)
    for network in plan_networks(lab, facts):
        assert parse_xml(render_network(network)).findtext("name") == network.name
        assert network.filter
        assert parse_xml(render_filter(network.filter)).get("name") == network.filter.name
    plans = list(walk_plans(plans_of(lab, is_emulated=is_emulated)))
    assert [parse_xml(render_domain(plan)).findtext("name") for plan in plans] == [plan.domain for plan in plans]
