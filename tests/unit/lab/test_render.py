from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from xml.etree import ElementTree

import pytest

from nestctl.lab.plan import GuestPlan, walk_plans
from nestctl.lab.render import (
    Mark,
    parse_contact,
    parse_domain_type,
    parse_forwarded_port,
    parse_mark,
    parse_network_owner,
    parse_network_subnets,
    render_domain,
    render_network,
)
from nestctl.model.lab import Guest, Lab
from tests.builders import parse_xml, plan_of_depth, plans_of

AWKWARD = "a'b\"c<d>&e</name>"


def domain(plan: GuestPlan) -> ElementTree.Element:
    return parse_xml(render_domain(plan))


def test_a_guest_of_hardware_is_a_kvm_domain_with_the_hosts_cpu() -> None:
    root = domain(plan_of_depth(2))
    cpu = root.find("cpu")
    assert root.get("type") == "kvm"
    assert cpu is not None
    assert cpu.get("mode") == "host-passthrough"
    assert [(it.get("policy"), it.get("name")) for it in cpu] == [("require", "vmx")]


@pytest.mark.parametrize("feature", ["vmx", "svm"])
def test_a_hypervisor_is_given_the_vendors_feature(feature: str) -> None:
    names = [it.get("name") for it in domain(plan_of_depth(2, cpu_feature=feature)).iterfind("cpu/feature")]
    assert names == [feature]


def test_a_guest_that_runs_no_guests_is_not_required_to_have_it() -> None:
    assert domain(plan_of_depth(1)).find("cpu/feature") is None


def test_an_emulated_guest_is_a_qemu_domain_with_emulated_svm() -> None:
    root = domain(plan_of_depth(2, is_emulated=True))
    assert root.get("type") == "qemu"
    assert [child.get("mode") for child in root.iterfind("cpu")] == ["maximum"]
    features = {it.get("name"): it.get("policy") for it in root.iterfind("cpu/feature")}
    assert features == {"svm": "require", "npt": "require", "la57": "disable", "erms": "disable"}


@pytest.mark.parametrize(
    ("is_emulated", "expected"),
    [(True, {"svm": "disable", "la57": "disable", "erms": "disable"}), (False, {"vmx": "disable"})],
)
def test_a_guest_that_is_not_to_nest_is_denied_it(is_emulated: bool, expected: dict[str, str]) -> None:
    lab = Lab(name="demo", guests={"l1": Guest(nesting=False)})
    root = domain(plans_of(lab, is_emulated=is_emulated)[0])
    assert {it.get("name"): it.get("policy") for it in root.iterfind("cpu/feature")} == expected


@pytest.mark.parametrize(("is_emulated", "usual"), [(True, "maximum"), (False, "host-passthrough")])
def test_a_row_of_a_matrix_has_its_cpu(is_emulated: bool, usual: str) -> None:
    guests = {
        "usual": Guest(nesting=True),
        "model": Guest(nesting=True, cpu_model="EPYC-Rome"),
        "less": Guest(nesting=True, cpu_features_off=("npt", "avx2")),
    }
    roots = {it.name: domain(it) for it in plans_of(Lab(name="demo", guests=guests), is_emulated=is_emulated)}
    modes = {name: cpu.get("mode") for name, root in roots.items() if (cpu := root.find("cpu")) is not None}
    assert modes == {"usual": usual, "model": "custom", "less": usual}
    assert roots["model"].findtext("cpu/model") == "EPYC-Rome"
    policies = [(it.get("name"), it.get("policy")) for it in roots["less"].iterfind("cpu/feature")]
    assert ("npt", "disable") in policies
    assert ("avx2", "disable") in policies
    assert len({name for name, _ in policies}) == len(policies)


def test_a_guest_can_nest_without_guests_of_its_own() -> None:
    lab = Lab(name="demo", guests={"l1": Guest(nesting=True)})
    root = domain(plans_of(lab)[0])
    assert {it.get("name"): it.get("policy") for it in root.iterfind("cpu/feature")} == {"vmx": "require"}
    assert "nestctl-base" in [it.text for it in root.iterfind("devices/disk/serial")]


def test_what_is_inside_an_emulated_guest_is_a_kvm_domain() -> None:
    inner = plan_of_depth(2, is_emulated=True).guests[0]
    assert domain(inner).get("type") == "kvm"


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_only_a_hypervisor_has_the_image_attached_read_only(depth: int) -> None:
    for plan in walk_plans((plan_of_depth(depth),)):
        disks = {it.findtext("serial"): it for it in domain(plan).iterfind("devices/disk")}
        assert ("nestctl-base" in disks) == plan.is_hypervisor
        assert disks["nestctl-root"].find("readonly") is None
        assert all(it.find("readonly") is not None for name, it in disks.items() if name != "nestctl-root")


def test_the_port_is_forwarded_from_loopback_only() -> None:
    xml = render_domain(plan_of_depth(1))
    assert "hostfwd=tcp:127.0.0.1:20000-10.213.0.10:22" in xml
    assert parse_forwarded_port(xml) == 20_000


def test_a_guest_on_a_network_has_no_forwarded_port() -> None:
    inner = plan_of_depth(2).guests[0]
    xml = render_domain(inner)
    assert parse_forwarded_port(xml) is None
    assert "commandline" not in xml
    interface = domain(inner).find("devices/interface")
    assert interface is not None
    assert [child.attrib for child in interface][:2] == [{"address": inner.uplink.mac}, {"network": "demo-l1"}]


def test_what_is_rendered_can_be_read_back() -> None:
    for plan in walk_plans((plan_of_depth(3),)):
        xml = render_domain(plan)
        assert parse_contact(plan.domain, xml) == plan.contact
        assert parse_mark(xml) == Mark(
            lab="demo",
            name=plan.name,
            level=plan.level,
            address=plan.uplink.address,
            is_hypervisor=plan.is_hypervisor,
            digest=plan.digest,
            settings=plan.settings,
            subnets=("10.213.0.0/24", "10.213.1.0/24", "10.213.2.0/24"),
        )


def test_when_a_guest_was_made_is_kept() -> None:
    mark = parse_mark(render_domain(plan_of_depth(1), created="2026-01-02T03:04:05+00:00"))
    assert mark
    assert mark.created == "2026-01-02T03:04:05+00:00"


def test_settings_that_were_damaged_are_none() -> None:
    mark = parse_mark(render_domain(plan_of_depth(1)).replace('{"version', "{version"))
    assert mark
    assert mark.settings == {}


def test_a_mark_that_was_edited_by_hand_is_still_one() -> None:
    mark = parse_mark(render_domain(plan_of_depth(1)).replace("level='1'", "level='one'"))
    assert mark
    assert mark.level == 1


@pytest.mark.parametrize("is_emulated", [True, False])
def test_words_for_the_kernel_come_last(is_emulated: bool) -> None:
    lab = Lab(name="demo", guests={"l1": Guest(kernel_args=("mitigations=off", 'a="<&>"'))})
    line = domain(plans_of(lab, is_emulated=is_emulated)[0]).findtext("os/cmdline")
    assert line
    assert line.startswith("console=ttyS0 quiet")
    assert line.endswith(' mitigations=off a="<&>"')


def test_the_type_of_a_domain_is_read() -> None:
    assert parse_domain_type(render_domain(plan_of_depth(1))) == "kvm"
    assert parse_domain_type(render_domain(plan_of_depth(1, is_emulated=True))) == "qemu"


def test_a_domain_of_somebody_else_has_no_mark() -> None:
    xml = "<domain type='kvm'><name>other</name><metadata><x:guest xmlns:x='urn:other' lab='demo'/></metadata></domain>"
    assert parse_mark(xml) is None
    with pytest.raises(ValueError, match="'other' has no mark"):
        parse_contact("other", xml)


def test_a_network_knows_whose_it_is() -> None:
    network = plan_of_depth(2).network
    assert network
    root = parse_xml(render_network(network))
    assert parse_network_owner(render_network(network)) == "demo"
    assert [it.get("mode") for it in root.iterfind("forward")] == ["nat"]
    assert [it.attrib for it in root.iterfind("ip")] == [{"address": "10.213.1.1", "prefix": "24"}]
    assert root.find("ip/dhcp") is None
    assert parse_network_owner("<network><name>default</name></network>") == ""


def test_the_subnets_of_any_network_are_read() -> None:
    xml = """<network><name>default</name>
      <ip address='192.168.122.1' netmask='255.255.255.0'/><ip address='10.0.0.1' prefix='16'/>
      <ip family='ipv6' address='fd00::1' prefix='64'/><ip address='10.9.9.9'/></network>"""
    assert [str(it) for it in parse_network_subnets(xml)] == ["192.168.122.0/24", "10.0.0.0/16", "10.9.9.9/32"]


def test_no_value_can_leave_its_place() -> None:
    """Names come checked from the model; a path of this machine may hold anything."""
    plan = plan_of_depth(1)
    place = replace(plan.place, directory=PurePosixPath(f"/{AWKWARD}"), kernel=PurePosixPath(f"/{AWKWARD}/vmlinuz"))
    root = domain(replace(plan, place=place))
    assert root.findtext("os/kernel") == f"/{AWKWARD}/vmlinuz"
    source = root.find("devices/disk/source")
    assert source is not None
    assert source.get("file") == f"/{AWKWARD}/l1.qcow2"


def test_nothing_is_rendered_with_a_hole_in_it() -> None:
    for plan in walk_plans((plan_of_depth(3, is_emulated=True),)):
        xml = render_domain(plan)
        assert "None" not in xml
        assert "{{" not in xml
