"""A lab's own networks: planned, made, changed, kept from strangers, removed with their filters."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from nestctl.adapters.libvirt import Filter, Network
from nestctl.errors import FailedError, HypervisorError, LabFileError, PrerequisiteError, SeveralError, UsageError
from nestctl.lab.audit import find_bridges, find_traces
from nestctl.lab.compare import Action
from nestctl.lab.network_plan import bridge_name, filter_name, filter_owner, filter_uuid
from nestctl.lab.networks import check_bridge_setting, check_networks, compare_networks
from nestctl.lab.parse import parse_lab, read_lab
from nestctl.lab.plan import plan_networks
from nestctl.lab.render import parse_network_subnets, render_domain, render_filter, render_network
from nestctl.lab.store import keep_lab
from nestctl.model.lab import Guest, Lab
from nestctl.model.network import Network as Declared
from nestctl.paths import resource
from tests.builders import host_facts, lab_of_tenants, parse_xml, plans_of
from tests.fakes import Killed
from tests.lab_bench import Bench

ISP = lab_of_tenants()


def actions(bench: Bench, lab: Lab) -> dict[str, Action]:
    return {it.name: it.action for it in bench.preview(lab).networks}


def rules(xml: str, direction: str) -> Iterator[tuple[str, dict[str, str]]]:
    for rule in parse_xml(xml).iter("rule"):
        if rule.get("direction") in (direction, "inout"):
            yield rule.get("action", ""), {child.tag: str(child.attrib) for child in rule}


def test_tenants_have_a_network_and_a_filter_each_and_then_nothing_is_to_do() -> None:
    bench = Bench()
    assert actions(bench, ISP) == {"isp-blue": Action.CREATE, "isp-green": Action.CREATE}
    bench.up(ISP)
    hypervisor = bench.machine.hypervisor
    assert {it.name: it.is_active for it in hypervisor.list_networks()} == {"isp-blue": True, "isp-green": True}
    assert set(hypervisor.filters) == {"clean-traffic", "nestctl.isp.blue", "nestctl.isp.green"}
    assert bench.preview(ISP).is_settled
    bench.down(ISP)
    bench.expect_nothing_left()


def test_a_guest_is_never_on_a_network_without_its_filter() -> None:
    """Killed before any step, what is there of a network has its filter."""
    for ends_at in range(12):
        bench = Bench()
        bench.world.ends_at = ends_at
        with pytest.raises(Killed):
            bench.up(ISP)
        hypervisor = bench.machine.hypervisor
        for network in hypervisor.list_networks():
            assert f"nestctl.isp.{network.name.removeprefix('isp-')}" in hypervisor.filters


def test_where_no_guest_comes_up_no_network_stays() -> None:
    bench = Bench()
    object.__setattr__(bench.machine.hypervisor, "define_domain", _refuse)
    with pytest.raises(SeveralError):
        bench.up(ISP)
    bench.expect_nothing_left()


def _refuse(_xml: str) -> None:
    raise HypervisorError("No more domains.")


def test_no_level_and_no_network_share_a_subnet() -> None:
    bench = Bench()
    plans = bench.up(ISP)
    taken = [ipaddress.IPv4Network(it) for it in plans[0].subnets]
    taken += [next(parse_network_subnets(it.xml)) for it in bench.machine.hypervisor.list_networks()]
    assert len(taken) == 4
    assert not any(one.overlaps(other) for one, other in combinations(taken, 2))
    # A nestctl inside a guest is told of all of them.
    assert {str(it) for it in taken} <= {*plans[0].subnets, *plans[0].occupied}


def test_a_network_keeps_its_subnet_when_others_come() -> None:
    bench = Bench()
    bench.up(ISP)
    before = {it.name: it.xml for it in bench.machine.hypervisor.list_networks()}
    wider = ISP.model_copy(update={"networks": {"amber": Declared(), **ISP.networks}})
    bench.up(wider)
    after = {it.name: it.xml for it in bench.machine.hypervisor.list_networks()}
    assert set(after) == {*before, "isp-amber"}
    assert {name: after[name] for name in before} == before


def test_a_filter_that_was_changed_or_removed_is_put_right_in_place() -> None:
    bench = Bench()
    bench.up(ISP)
    filters = bench.machine.hypervisor.filters
    good = filters["nestctl.isp.blue"]
    loose = f"<filter name='{good.name}'><uuid>{good.uuid}</uuid></filter>"
    filters[good.name] = Filter(name=good.name, uuid=good.uuid, xml=loose)
    change = bench.preview(ISP).networks[0]
    assert (change.action, change.reason) == (Action.CHANGE, "its filter is another one")
    bench.up(ISP)
    assert filters[good.name] == good
    del filters[good.name]
    assert bench.preview(ISP).networks[0].reason == "its filter is gone"
    bench.up(ISP)
    assert filters[good.name] == good


def test_how_libvirt_writes_a_filter_does_not_matter() -> None:
    plan = plan_networks(ISP, host_facts(ISP))[0]
    assert plan.filter
    xml = render_filter(plan.filter).replace("chain='root'", "chain='root' priority='0'")
    network = Network(name=plan.name, is_active=True, xml=render_network(plan))
    own = Filter(name=plan.filter.name, uuid=plan.filter.uuid, xml=xml)
    (change,) = compare_networks("isp", [plan], [network], [own])
    assert change.action is Action.KEEP


def test_a_network_is_not_changed_under_guests_that_run() -> None:
    bench = Bench()
    bench.up(ISP)
    closed = ISP.model_copy(update={"networks": {**ISP.networks, "blue": Declared(forward="none")}})
    assert bench.preview(closed).networks[0].reason == "forward mode nat -> nothing"
    with pytest.raises(UsageError, match="cannot be changed while guests run on it"):
        bench.up(closed)
    for name in ("isp-blue", "isp-green"):
        bench.machine.hypervisor.stop_domain(name)
    bench.up(closed)
    assert bench.preview(closed).is_settled


def test_a_network_that_is_not_wanted_goes_with_its_filter_when_told_to() -> None:
    bench = Bench()
    bench.up(ISP)
    guests = {"blue": ISP.guests["blue"]}
    smaller = ISP.model_copy(update={"networks": {"blue": Declared()}, "guests": guests})
    assert actions(bench, smaller) == {"isp-blue": Action.KEEP, "isp-green": Action.REMOVE}
    bench.up(smaller)
    assert "nestctl.isp.green" in bench.machine.hypervisor.filters
    bench.up(smaller, may_prune=True)
    assert set(bench.machine.hypervisor.networks) == {"isp-blue"}
    assert set(bench.machine.hypervisor.filters) == {"clean-traffic", "nestctl.isp.blue"}


@pytest.mark.parametrize("kind", ["network", "filter"])
def test_what_is_somebody_elses_is_left_alone(kind: str) -> None:
    bench = Bench()
    hypervisor = bench.machine.hypervisor
    if kind == "network":
        hypervisor.define_network("<network><name>isp-blue</name></network>")
    else:
        name = filter_name("isp", "blue")
        hypervisor.define_filter(f"<filter name='{name}'><uuid>6ba7b812-9dad-11d1-80b4-00c04fd430c8</uuid></filter>")
    with pytest.raises(FailedError, match="does not belong to the lab 'isp'"):
        bench.up(ISP)
    bench.down(ISP)
    assert len(hypervisor.networks) + len(hypervisor.filters) == 2


def test_the_network_in_a_guest_goes_with_the_last_guest_there() -> None:
    bench = Bench()
    bench.up(ISP)
    inside = bench.machine.hypervisor.domains["isp-blue"].machine.hypervisor
    assert set(inside.networks) == {"isp-blue"}
    guests = {**ISP.guests, "blue": Guest(network="blue", memory_mib=1536, nesting=True)}
    bench.up(ISP.model_copy(update={"guests": guests}), may_prune=True)
    assert inside.networks == {}


def test_a_libvirt_without_networks_or_clean_traffic_is_refused_before_anything_is_touched() -> None:
    bench = Bench()
    del bench.machine.hypervisor.filters["clean-traffic"]
    with pytest.raises(PrerequisiteError, match="'clean-traffic'"):
        bench.up(ISP)
    object.__setattr__(bench.machine.hypervisor, "has_networks", lambda: False)
    with pytest.raises(PrerequisiteError, match="has no bridges"):
        check_networks(bench.machine.hypervisor, bench.preview(ISP).networks, [])
    assert bench.world.steps == 0


@pytest.mark.parametrize("value", ["0\n", None])
def test_rules_about_connections_that_would_see_nothing_are_refused(value: str | None, tmp_path: Path) -> None:
    path = tmp_path / "bridge-nf-call-iptables"
    if value is not None:
        path.write_text(value)
    with pytest.raises(PrerequisiteError, match="would not see"):
        check_bridge_setting(path)
    path.write_text("1\n")
    check_bridge_setting(path)


def test_who_a_filter_belongs_to_is_told_by_name_and_uuid() -> None:
    name = filter_name("my-lab", "blue")
    assert filter_owner(name, filter_uuid(name)) == "my-lab"
    assert filter_owner(name, filter_uuid("another")) == ""
    assert filter_owner("clean-traffic", filter_uuid("clean-traffic")) == ""


def test_the_audit_names_networks_filters_and_bridges(tmp_path: Path) -> None:
    bench = Bench()
    bench.up(ISP)
    found = {(it.kind, it.name) for it in find_traces("isp", bench.machine.hypervisor)}
    assert {("network", "isp-blue"), ("filter", "nestctl.isp.green")} <= found
    keep_lab(ISP)
    bridge = bridge_name("isp", "blue")
    assert len(bridge) < 16
    for name in (bridge, bridge_name("another", "blue"), "lo"):
        (tmp_path / name).mkdir()
    assert [(it.lab, it.kind, it.name) for it in find_bridges("isp", tmp_path)] == [("isp", "bridge", bridge)]
    assert [it.name for it in find_bridges(None, tmp_path)] == [bridge]


def test_a_filter_denies_this_machine_and_private_addresses_on_the_bridge_and_for_connections() -> None:
    facts = host_facts(ISP, own_addresses=("10.0.0.5", "203.0.113.7"))
    plan = plan_networks(ISP, facts)[0]
    assert plan.filter
    assert plan.filter.denied[-1] == "203.0.113.7/32"
    assert "10.0.0.5/32" not in plan.filter.denied
    for kind in ("ip", "all"):
        dropped = [
            about[kind]
            for action, about in rules(render_filter(plan.filter), "out")
            if action == "drop" and kind in about
        ]
        for address in ("203.0.113.7", "10.0.0.0", "192.168.0.0", plan.gateway):
            assert any(address in it for it in dropped), (kind, address)


def test_isolated_guests_have_isolated_ports_and_no_peers() -> None:
    lab = lab_of_tenants(networks={"blue": Declared(isolate_guests=True), "green": Declared(dns="9.9.9.9")})
    blue, green = plans_of(lab)
    assert blue.uplink.is_isolated
    assert not green.uplink.is_isolated
    facts = host_facts(lab)
    first, second = (it.filter for it in plan_networks(lab, facts))
    assert first
    assert second
    assert (first.peers, second.peers) == ("", green.uplink.subnet)
    assert "9.9.9.9" in render_filter(second)
    assert green.guests[0].uplink.dns == "9.9.9.9"


def test_untrusted_guests_without_a_network_have_no_way_out() -> None:
    lab = Lab(name="isp", trust="untrusted", guests={"a": Guest()})
    assert plans_of(lab)[0].uplink.is_closed
    assert not plans_of(lab.model_copy(update={"trust": "own"}))[0].uplink.is_closed


def test_a_guest_can_be_closed_alone_and_opened_again_without_a_new_disk() -> None:
    closed, plain = (Lab(name="c", guests={"a": Guest(forward=it), "b": Guest()}) for it in ("none", "nat"))
    assert [it.uplink.is_closed for it in plans_of(closed)] == [True, False]
    assert [",restrict=on," in render_domain(it) for it in plans_of(closed)] == [True, False]
    assert not any(it.uplink.is_closed for it in plans_of(plain))
    bench = Bench()
    bench.up(closed)
    assert bench.actions(plain) == {"a": Action.RESTART, "b": Action.KEEP}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "networks: {n: {}}\nguests: {a: {network: n, forward: none}}",
            "on the network 'n', whose own 'forward' holds",
        ),
        ("guests: {a: {memory_mib: 2048, guests: {b: {forward: none}}}}", "'b' inside it has 'forward'"),
        ("trust: untrusted\nguests: {a: {forward: nat}}", "'a' has 'forward: nat'"),
        ("guests: {a: {forward: none, seed: {packages: [git]}}}", "'a' has no way out to fetch them"),
        ("guests: {a: {forward: open}}", "'nat' or 'none'"),
    ],
)
def test_what_cannot_be_closed_or_opened_is_an_error(text: str, said: str) -> None:
    with pytest.raises(LabFileError, match=said):
        parse_lab(f"name: c\n{text}\n", "lab.yaml")


def test_a_students_machine_of_the_template_has_no_way_out_and_its_guests_run() -> None:
    lab = read_lab(resource("templates", "labs/student-class.yaml"))
    assert len(lab.guests) > 1
    for plan in plans_of(lab):
        assert plan.uplink.is_closed
        assert plan.guests


def test_who_a_guest_is_kept_from_needs_a_restart_and_no_new_disk() -> None:
    bench = Bench()
    bench.up(ISP)
    apart = ISP.model_copy(update={"networks": {**ISP.networks, "blue": Declared(isolate_guests=True)}})
    assert bench.actions(apart)["blue"] is Action.RESTART
    bench.up(apart, may_recreate=True)
    assert bench.preview(apart).is_settled
    assert "<port isolated='yes'/>" in bench.machine.hypervisor.domains["isp-blue"].live_xml
    own, strangers = (Lab(name="d", trust=it, guests={"a": Guest()}) for it in ("own", "untrusted"))
    bench.up(own)
    assert bench.actions(strangers) == {"a": Action.RESTART}


def test_a_network_that_lost_its_subnet_is_made_anew() -> None:
    bench = Bench()
    bench.up(ISP)
    networks = bench.machine.hypervisor.networks
    old = networks["isp-blue"]
    networks["isp-blue"] = Network(name=old.name, is_active=True, xml=old.xml.replace("<ip ", "<ipx "))
    assert bench.preview(ISP).networks[0].action is Action.RECREATE
