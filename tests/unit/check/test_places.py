"""Every mark of a hypervisor is read as its maker shows it: raw registers, DMI, modules and nodes.

Each table has a case for every row of the code's; a new row needs one here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from nestctl.agent.cpuid import HYPERVISOR_LEAVES, Registers, describe
from nestctl.agent.modules import OTHER_HYPERVISORS, read_other_hypervisors
from nestctl.agent.place import DMI_FIELDS
from nestctl.agent.tree import Entry, RecordedTree
from nestctl.check.assess import assess
from nestctl.check.findings import Status
from nestctl.check.places import DMI_PREFIXES, NO_MAKER_OF_MACHINES, SIGNATURES, describe_place, is_guest
from nestctl.check.recording import read_recording
from nestctl.check.rules.acceleration import find_busy, find_device
from nestctl.model.facts import Facts, Known, Unknown
from nestctl.model.facts_document import parse_facts

HOSTS = Path(__file__).parents[2] / "hosts"

# EBX, ECX and EDX of the leaf, twelve bytes, with the NULs and blanks of each (systemd, src/basic/virt.c).
SHOWN = {
    b"KVMKVMKVM\0\0\0": "KVM",
    b"Linux KVM Hv": "KVM",
    b"PVMPVMPVM\0\0\0": "KVM",
    b"TCGTCGTCGTCG": "QEMU's TCG",
    b"VMwareVMware": "VMware",
    b"XenVMMXenVMM": "Xen",
    b"VBoxVBoxVBox": "VirtualBox",
    b"Microsoft Hv": "Hyper-V",
    b"bhyve bhyve ": "bhyve",
    b"ACRNACRNACRN": "ACRN",
    b"QNXQVMBSQG\0\0": "QNX",
    b"SRESRESRESRE": "SRE",
    b"Apple VZ\0\0\0\0": "Apple's Virtualization",
    b" lrpepyh  vr": "Parallels",
    b"NVMMNVMMNVMM": "NVMM",
}

# A field and a value as a machine of each has it, and whose machine it is.
DMI = {
    "KVM": ("product_name", "KVM", "KVM"),
    "OpenStack": ("product_name", "OpenStack Nova", "KVM"),
    "KubeVirt": ("sys_vendor", "KubeVirt", "KVM"),
    "Amazon EC2": ("sys_vendor", "Amazon EC2", "Amazon EC2"),
    "QEMU": ("sys_vendor", "QEMU", "QEMU"),
    "VMware": ("product_name", "VMware Virtual Platform", "VMware"),
    "VMW": ("bios_vendor", "VMW", "VMware"),
    "innotek GmbH": ("bios_vendor", "innotek GmbH", "VirtualBox"),
    "VirtualBox": ("product_name", "VirtualBox", "VirtualBox"),
    "Oracle Corporation": ("board_vendor", "Oracle Corporation", "VirtualBox"),
    "Xen": ("sys_vendor", "Xen", "Xen"),
    "Bochs": ("bios_vendor", "Bochs", "Bochs"),
    "The Bochs Project": ("bios_vendor", "The Bochs Project", "Bochs"),
    "Parallels": ("product_name", "Parallels Virtual Platform", "Parallels"),
    "BHYVE": ("product_name", "BHYVE", "bhyve"),
    "Hyper-V": ("product_version", "Hyper-V UEFI Release v4.1", "Hyper-V"),
    "Apple Virtualization": ("product_name", "Apple Virtualization Generic Platform", "Apple's Virtualization"),
    "Google Compute Engine": ("product_name", "Google Compute Engine", "Google Compute Engine"),
}

# What shows that another hypervisor is here, and the module that has to go.
OTHERS = {
    ("VirtualBox", "sys/module/vboxdrv"): "vboxdrv",
    ("VirtualBox", "dev/vboxdrv"): "vboxdrv",
    ("VMware", "sys/module/vmmon"): "vmmon",
    ("VMware", "dev/vmmon"): "vmmon",
    ("Parallels", "sys/module/prl_hypervisor"): "prl_hypervisor",
    ("Hyper-V", "dev/mshv"): "",  # it is no module of this Linux
}


def machine(name: str) -> Facts:
    return parse_facts(read_recording(HOSTS / name).collect())


def shown_in_cpuid(raw: bytes) -> list[str]:
    """What the agent makes of a hypervisor's first leaf."""
    words = (int.from_bytes(raw[start : start + 4], "little") for start in (0, 4, 8))
    first = HYPERVISOR_LEAVES[0]
    leaves = {1: Registers(0, 0, 1 << 31, 0), first: Registers(first, *words)}
    signatures = describe(lambda leaf: leaves.get(leaf, Registers(0, 0, 0, 0)))["signatures"]
    assert isinstance(signatures, list)
    return signatures


def test_there_is_a_case_for_every_signature_prefix_and_mark() -> None:
    assert {name for raw in SHOWN for name in shown_in_cpuid(raw)} == set(SIGNATURES)
    assert set(DMI) == set(DMI_PREFIXES)
    assert {(name, path) for name, paths in OTHER_HYPERVISORS.items() for path in paths} == set(OTHERS)


@pytest.mark.parametrize(("raw", "hypervisor"), SHOWN.items())
def test_a_hypervisor_is_known_by_its_registers(raw: bytes, hypervisor: str) -> None:
    facts = replace(machine("guest-without-nesting"), dmi=Unknown(reason="none"))
    assert isinstance(facts.cpuid, Known)
    facts = replace(facts, cpuid=Known(value=replace(facts.cpuid.value, signatures=tuple(shown_in_cpuid(raw)))))
    assert describe_place(facts) == f"a guest of {hypervisor}, level 1 at least"


def with_dmi(facts: Facts, field: str, value: str) -> Facts:
    nobody = {"product_name": "Precision 7920", "sys_vendor": "A maker", "board_vendor": "A maker"}
    return replace(facts, dmi=Known(value={**nobody, field: value}))


@pytest.mark.parametrize(("prefix", "case"), DMI.items())
def test_a_hypervisor_without_cpuid_is_known_by_its_firmware(prefix: str, case: tuple[str, str, str]) -> None:
    field, value, hypervisor = case
    assert value.startswith(prefix)
    assert field in DMI_FIELDS
    nothing = Unknown(reason="none")
    facts = replace(machine("arm64-guest"), device_tree_hypervisor=nothing, cpuid=nothing)
    assert describe_place(with_dmi(facts, field, value)) == f"a guest of {hypervisor}, level 1 at least"


@pytest.mark.parametrize(("prefix", "case"), DMI.items())
def test_firmware_gives_away_who_hides_unless_they_make_machines_of_metal(
    prefix: str, case: tuple[str, str, str]
) -> None:
    field, value, hypervisor = case
    facts = with_dmi(machine("intel-nested-on"), field, value)
    assert is_guest(facts) is (hypervisor in NO_MAKER_OF_MACHINES), prefix


@pytest.mark.parametrize(("mark", "module"), OTHERS.items())
def test_another_hypervisor_that_holds_the_processor_is_named_with_what_to_remove(
    mark: tuple[str, str], module: str
) -> None:
    name, path = mark
    entries: dict[str, Entry] = {path: {"node": True}}
    found = read_other_hypervisors(RecordedTree(entries))
    assert found == {name: [f"/{path}"]}
    shown: Mapping[str, tuple[str, ...]] = {name: tuple(paths) for name, paths in found.items()}
    busy = replace(machine("intel-virtualbox-runs"), other_hypervisors=Known(value=shown))
    absent = Unknown(reason="/dev/kvm: No such file or directory", error="ENOENT")
    finding = find_busy(busy) if module else find_device(replace(busy, api_version=absent, loop=absent))
    assert finding
    assert finding.status is Status.FAIL
    assert name in finding.summary
    assert f"/{path}" in finding.evidence
    assert not module or module in finding.fix.split()


@pytest.mark.parametrize(
    ("name", "finding", "says"),
    [
        ("create-vm-no-memory", "kvm.speed", "this process may not make a guest"),
        ("create-vm-no-device", "kvm.speed", "the module behind it is being removed"),
        ("intel-vmware-runs", "kvm.busy", "VMware holds VMX or SVM"),
        ("intel-parallels-runs", "kvm.busy", "Parallels holds VMX or SVM"),
        ("intel-setting-misspelt", "nested.settings", "neither on nor off"),
        ("intel-setting-misspelt", "nested.reload", "in use by guests that this user may not see"),
        ("intel-linux-5.0", "nested.save", "it takes Linux 5.3"),
        ("intel-qemu-4.0", "nested.save", "it takes QEMU 4.2"),
        ("intel-linux-5.0", "qemu", "in a version not known"),
        ("intel-qemu-4.0", "qemu", "older than what labs were tried with"),
        ("libvirt-without-kvm", "libvirt.view", "an emulator that runs them without KVM"),
        ("libvirt-not-looked-since", "libvirt.view", "it does before the next guest starts"),
        ("amd-old", "libvirt.view", "libvirt believes otherwise"),
        ("bhyve-guest", "level", "a guest of bhyve"),
        ("apple-virtualization-guest", "level", "a guest of Apple's Virtualization"),
        ("oracle-cloud-metal", "place", "without a hypervisor above"),
    ],
)
def test_a_recorded_machine_is_told_in_these_words(name: str, finding: str, says: str) -> None:
    """Where expected.json, which has no sentences, cannot tell one case of a rule from another."""
    summaries = {it.name: it.summary for it in assess(machine(name)).findings}
    assert says in summaries[finding]


@pytest.mark.parametrize("name", ["apple-virtualization-guest", "arm64-guest"])
def test_on_other_architectures_nobody_speaks_of_vmx(name: str) -> None:
    assessed = assess(machine(name))
    assert "VMX" not in str([*assessed.answers.values(), *assessed.findings])
