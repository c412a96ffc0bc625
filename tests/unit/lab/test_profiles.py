from __future__ import annotations

from pathlib import Path

import pytest

from nestctl.errors import LabFileError, UsageError
from nestctl.lab.images import check_images
from nestctl.lab.parse import parse_lab
from nestctl.lab.profiles import find_profile, list_profiles, warn_of_profiles
from tests.builders import parse_xml

HERE = Path(__file__).parents[2] / "golden"


def refused(guest: str) -> LabFileError:
    with pytest.raises(LabFileError) as raised:
        parse_lab(f"name: demo\nguests:\n  a:\n    {guest}\n", "lab.yaml", check=check_images)
    return raised.value


def test_the_profiles_are_those_that_are_documented() -> None:
    assert list_profiles() == ("hyper-v", "kvm", "vmware", "windows")


@pytest.mark.parametrize("name", list_profiles())
def test_every_profile_is_whole(name: str) -> None:
    assert find_profile(name).title


@pytest.mark.parametrize(("guest", "disk", "nic"), [("hyper-v", "sata", "e1000e"), ("esxi", "sata", "vmxnet3")])
def test_a_foreign_hypervisor_gets_devices_that_it_has_drivers_for(guest: str, disk: str, nic: str) -> None:
    text = (HERE / "profiles-intel" / f"{guest}.domain.xml").read_text()
    assert "virtio" not in text
    assert parse_xml(text).find(f"devices/disk/target[@bus='{disk}']") is not None
    assert f"'{nic},netdev" in text
    assert parse_xml(text).find("cpu/feature[@name='vmx'][@policy='require']") is not None


@pytest.mark.parametrize("guest", ["esxi", "windows"])
def test_what_is_on_the_disk_is_started_before_what_installs_it_and_the_seed_never(guest: str) -> None:
    root = parse_xml((HERE / "profiles-intel" / f"{guest}.domain.xml").read_text())
    orders = {it.findtext("serial", "cdrom"): it.find("boot") for it in root.iterfind("devices/disk")}
    assert {name: it.get("order") for name, it in orders.items() if it is not None} == {
        "nestctl-root": "1",
        "cdrom": "2",
    }
    assert root.find("os/boot") is None


def test_only_intel_has_the_enlightened_vmcs_and_only_kvm_enlightens() -> None:
    intel, emulated = (
        (HERE / case / "hyper-v.domain.xml").read_text() for case in ("profiles-intel", "profiles-emulated")
    )
    assert "<evmcs state='on'/>" in intel
    assert "<hyperv" not in emulated


def test_an_unknown_profile_is_said_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="There is no profile 'xen'; there: hyper-v, kvm"):
        find_profile("xen")
    assert refused("profile: xen").message.startswith("lab.yaml:4: 'guests.a.profile' is unknown: hyper-v, kvm, vmware")


@pytest.mark.parametrize(
    ("guest", "said"),
    [
        ("{profile: hyper-v}", "'hyper-v' is for another system than the built image has"),
        ("{image: blank, profile: hyper-v}", "'hyper-v' goes with 'nesting: true', which has to be said"),
        ("{image: blank, profile: windows}", "'windows' goes with 'nesting: false', which has to be said"),
        ("{image: blank}", "has nothing that answers by SSH"),
        ("{image: blank, profile: vmware, nesting: true, cdrom: /nowhere.iso}", "is not there: '/nowhere.iso'"),
        ("{cdrom: esxi.iso}", "'guests.a.cdrom' is no path from '/'"),
        ("{image: blank, profile: vmware, nesting: true, memory_mib: 4096, guests: {b: {}}}", "does not log in"),
    ],
)
def test_what_does_not_go_together_is_said(guest: str, said: str) -> None:
    text = f"name: demo\nguests:\n  a: {guest}\n"
    with pytest.raises(LabFileError) as raised:
        parse_lab(text, "lab.yaml", check=check_images)
    assert said in raised.value.message


def machine(root: Path, flags: str, ignore_msrs: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(f"processor: 0\nflags\t\t: fpu {flags}\n")
    (root / "sys/module/kvm/parameters").mkdir(parents=True)
    (root / "sys/module/kvm/parameters/ignore_msrs").write_text(f"{ignore_msrs}\n")
    return root


def warnings(root: Path, *, is_emulated: bool = False) -> list[str]:
    return list(warn_of_profiles(["vmware", "kvm", "vmware"], cpu_feature="vmx", is_emulated=is_emulated, root=root))


def test_a_machine_that_has_all_is_not_warned_of(tmp_path: Path) -> None:
    assert warnings(machine(tmp_path, "vmx ept vpid", "Y")) == []


def test_what_a_machine_lacks_is_said_once(tmp_path: Path) -> None:
    found = warnings(machine(tmp_path, "vmx ept", "N"))
    assert "needs vpid, which this machine's CPU does not show" in found[0]
    assert "needs kvm.ignore_msrs=Y, and it is N here" in found[1]
    assert len(found) == 2


def test_emulation_is_said_instead(tmp_path: Path) -> None:
    assert len(warnings(machine(tmp_path, "", "N"), is_emulated=True)) == 1
