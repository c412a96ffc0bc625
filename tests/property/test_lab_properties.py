"""What holds for every lab, whatever its shape."""

from __future__ import annotations

import ipaddress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nestctl.lab.addresses import Subnet
from nestctl.lab.parse import parse_lab
from nestctl.lab.plan import GuestPlan, depth_of, walk_plans
from nestctl.lab.render import parse_contact, render_domain, render_network
from nestctl.lab.seed import render_seed
from nestctl.model.lab import Lab, walk_guests
from tests.builders import host_facts, parse_xml, plans_of, recognizable_keys
from tests.property.labs import labs


@pytest.mark.slow
@given(lab=labs(), is_flow=st.booleans(), with_defaults=st.booleans())
def test_a_lab_survives_being_written_and_parsed(lab: Lab, is_flow: bool, with_defaults: bool) -> None:
    document = lab.model_dump(mode="json", exclude_defaults=not with_defaults)
    assert parse_lab(yaml.safe_dump(document, default_flow_style=is_flow), "lab.yaml") == lab


@given(lab=labs())
def test_every_guest_is_planned_once_under_names_of_its_own(lab: Lab) -> None:
    plans = list(walk_plans(plans_of(lab)))
    assert [plan.name for plan in plans] == [name for name, _ in walk_guests(lab.guests)]
    assert max(plan.level for plan in plans) == depth_of(lab.guests)
    for seen in (
        {plan.domain for plan in plans},
        {plan.uuid for plan in plans},
        {plan.uplink.mac for plan in plans},
        {(plan.place.directory, plan.disk) for plan in plans},
    ):
        assert len(seen) == len(plans)


@given(lab=labs())
def test_along_every_branch_no_subnet_is_repeated(lab: Lab) -> None:
    def descend(plan: GuestPlan, outer: tuple[Subnet, ...]) -> None:
        subnet = ipaddress.IPv4Network(plan.uplink.subnet)
        assert not any(subnet.overlaps(other) for other in outer)
        addresses = [inner.uplink.address for inner in plan.guests]
        assert len(set(addresses)) == len(addresses)
        for inner in plan.guests:
            assert plan.network
            assert plan.network.gateway == inner.uplink.gateway
            assert inner.uplink.address != inner.uplink.gateway
            descend(inner, (*outer, subnet))
        assert ipaddress.IPv4Address(plan.uplink.address) in subnet
        assert ipaddress.IPv4Address(plan.uplink.gateway) in subnet

    for plan in plans_of(lab):
        descend(plan, ())


@pytest.mark.slow
@given(lab=labs(), is_emulated=st.booleans())
def test_everything_rendered_is_well_formed_and_read_back(lab: Lab, is_emulated: bool) -> None:
    keys = recognizable_keys(lab.guests)
    for plan in walk_plans(plans_of(lab, is_emulated=is_emulated)):
        assert parse_contact(plan.domain, render_domain(plan)) == plan.contact
        assert len(render_seed(plan, keys)) % 512 == 0
        if plan.network:
            assert parse_xml(render_network(plan.network)).findtext("name") == plan.network.name


@given(lab=labs())
def test_planning_is_a_function(lab: Lab) -> None:
    assert plans_of(lab) == plans_of(lab)
    assert host_facts(lab) == host_facts(lab)
