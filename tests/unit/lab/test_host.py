from __future__ import annotations

from pathlib import Path

import pytest

from nestctl.adapters.libvirt import Domain, Network
from nestctl.errors import UsageError
from nestctl.lab.addresses import allocate_subnets
from nestctl.lab.host import Host, plan_on
from nestctl.lab.images import locate_image, locate_images
from nestctl.lab.render import render_domain
from nestctl.model.facts import Accelerator
from nestctl.model.lab import Guest, Lab
from tests.builders import lab_of_depth, plans_of


@pytest.mark.parametrize("accelerator", [Accelerator.KVM, Accelerator.TCG])
def test_a_plan_has_what_was_decided_about_the_machine(accelerator: Accelerator) -> None:
    host = Host(uri="qemu:///session", accelerator=accelerator, cpu_feature="svm")
    plan = plan_on(host, lab_of_depth(3), [])[0]
    assert plan.place.is_emulated is (accelerator is Accelerator.TCG)
    assert plan.cpu_feature == "svm"
    assert plan.uplink.port


@pytest.mark.parametrize("is_machine_emulated", [False, True])
def test_kvm_of_an_emulated_machine_is_given_an_emulators_time(is_machine_emulated: bool) -> None:
    host = Host(
        uri="qemu:///system",
        accelerator=Accelerator.KVM,
        cpu_feature="svm",
        is_machine_emulated=is_machine_emulated,
    )
    assert host.is_slow is is_machine_emulated
    assert not host.is_emulated


def test_a_guest_keeps_the_port_it_has() -> None:
    host = Host(uri="qemu:///session", accelerator=Accelerator.TCG, cpu_feature="svm")
    lab = lab_of_depth(2)
    xml = render_domain(plans_of(lab, ports={"l1": 54_321})[0])
    domain = Domain(name="demo-l1", is_running=False, xml=xml, live_xml="")
    assert plan_on(host, lab, [domain])[0].uplink.port == 54_321
    assert plan_on(host, lab_of_depth(2, "other"), [domain])[0].uplink.port != 54_321


def test_a_lab_keeps_its_subnets_when_the_machine_gets_a_network_there() -> None:
    host = Host(uri="qemu:///session", accelerator=Accelerator.TCG, cpu_feature="svm")
    taken = Network(name="new", is_active=True, xml="<network><ip address='10.213.0.1' prefix='23'/></network>")
    lab = lab_of_depth(2)
    fresh = plan_on(host, lab, [], [taken])[0]
    assert fresh.subnets == ("10.213.2.0/24", "10.213.3.0/24")
    assert fresh.occupied == ("10.213.0.0/23",)
    xml = render_domain(plans_of(lab, subnets=allocate_subnets(2, []))[0])
    domain = Domain(name="demo-l1", is_running=False, xml=xml, live_xml="")
    assert plan_on(host, lab, [domain], [taken])[0].subnets == ("10.213.0.0/24", "10.213.1.0/24")
    deeper = plan_on(host, lab_of_depth(3), [domain], [taken])[0]
    assert deeper.subnets == ("10.213.0.0/24", "10.213.1.0/24", "10.213.2.0/24")


def test_an_image_that_is_asked_for_by_name_has_to_be_there() -> None:
    with pytest.raises(UsageError, match="There is no image 'mine'; there: none"):
        locate_images(Lab(name="demo", image="mine", guests={"l1": Guest()}))


def test_the_default_image_is_known_before_it_is_built() -> None:
    image = locate_image("")
    assert image.identity[:12] in image.directory.name
    assert not Path(image.directory).exists()
