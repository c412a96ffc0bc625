from __future__ import annotations

from pathlib import Path

import pytest

from nestctl.adapters.libvirt import Domain
from nestctl.errors import ExitCode, PrerequisiteError, UsageError
from nestctl.lab.host import Host, check_memory, locate_image, parse_available_mib, plan_on
from nestctl.lab.render import render_domain
from nestctl.model.facts import Accelerator
from nestctl.model.lab import Guest, Lab
from tests.builders import lab_of_depth, plan_of_depth, plans_of

MEMINFO = "MemTotal:        4028440 kB\nMemFree:          210000 kB\nMemAvailable:    3145728 kB\n"


def test_what_is_available_is_read_in_mib() -> None:
    assert parse_available_mib(MEMINFO) == 3072


@pytest.mark.parametrize("text", ["", "MemTotal: 12 kB\n"])
def test_a_kernel_that_does_not_say_is_not_guessed_for(text: str) -> None:
    assert parse_available_mib(text) is None


def test_guests_that_fit_are_let_through(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    check_memory([plan_of_depth(2)], tmp_path / "meminfo")
    check_memory([], tmp_path / "meminfo")


def test_guests_that_do_not_fit_are_said_with_their_sum(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    lab = Lab(name="demo", guests={"a": Guest(memory_mib=2048), "b": Guest(memory_mib=1024)})
    with pytest.raises(PrerequisiteError, match=r"need 3328 MiB \(a 2176 \+ b 1152\), .* 3072 MiB available") as raised:
        check_memory(plans_of(lab), tmp_path / "meminfo")
    assert raised.value.exit_code == ExitCode.NOT_FOUND_OUT
    assert "memory_mib" in raised.value.hint


def test_a_machine_that_does_not_say_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("")
    check_memory([plan_of_depth(5)], tmp_path / "meminfo")


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


def test_an_image_that_is_asked_for_by_name_has_to_be_there() -> None:
    with pytest.raises(UsageError, match="There is no image 'mine'; there: none"):
        locate_image(Lab(name="demo", image="mine", guests={"l1": Guest()}))


def test_the_default_image_is_known_before_it_is_built() -> None:
    directory, digest = locate_image(lab_of_depth(1))
    assert digest[:12] in directory.name
    assert not directory.exists()
