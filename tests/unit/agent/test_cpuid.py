from __future__ import annotations

import platform

import pytest

from nestctl.agent.cpuid import Registers, describe, open_cpuid

NOTHING = Registers(0, 0, 0, 0)


def text(word: str) -> int:
    return int.from_bytes(word.encode().ljust(4, b"\0"), "little")


def signature(highest: int, name: str) -> Registers:
    return Registers(highest, *(text(name[start : start + 4]) for start in (0, 4, 8)))


def amd_guest(**leaves: Registers) -> dict[int, Registers]:
    """An AMD CPU that shows SVM, under the hypervisors whose blocks begin at the given leaves."""
    return {
        0: Registers(0x10, text("Auth"), text("cAMD"), text("enti")),
        1: Registers(0, 0, 1 << 31, 0),
        0x80000000: Registers(0x8000001F, 0, 0, 0),
        0x80000001: Registers(0, 0, 1 << 2, 0),
        **{int(leaf.removeprefix("at_"), 16): registers for leaf, registers in leaves.items()},
    }


def test_vendor_and_svm_are_read_from_their_leaves() -> None:
    shown = describe(lambda leaf: amd_guest().get(leaf, NOTHING))
    assert (shown["vendor"], shown["svm"], shown["vmx"]) == ("AuthenticAMD", True, False)


def test_kvm_is_found_above_hyper_v_enlightenments() -> None:
    leaves = amd_guest(
        at_40000000=signature(0x40000005, "Microsoft Hv"), at_40000100=signature(0x40000101, "KVMKVMKVM")
    )
    assert describe(lambda leaf: leaves.get(leaf, NOTHING))["signatures"] == ["Microsoft Hv", "KVMKVMKVM"]


def test_a_leaf_that_answers_with_data_of_another_is_no_hypervisor() -> None:
    leaves = amd_guest(at_40000000=signature(0x40000001, "TCGTCGTCGTCG"))
    stray = Registers(0x07, text("no"), text("such"), text("leaf"))
    assert describe(lambda leaf: leaves.get(leaf, stray))["signatures"] == ["TCGTCGTCGTCG"]


def test_bare_metal_is_not_scanned_for_hypervisors() -> None:
    leaves = {**amd_guest(at_40000000=signature(0x40000001, "KVMKVMKVM")), 1: NOTHING}
    shown = describe(lambda leaf: leaves.get(leaf, NOTHING))
    assert (shown["hypervisor"], shown["signatures"]) == (False, [])


def test_extended_leaf_that_does_not_exist_is_not_believed() -> None:
    leaves = {**amd_guest(), 0x80000000: NOTHING}
    assert describe(lambda leaf: leaves.get(leaf, NOTHING))["svm"] is False


@pytest.mark.skipif(platform.machine() != "x86_64", reason="CPUID is an x86 instruction")
def test_the_instruction_agrees_with_the_kernel_about_the_vendor() -> None:
    with open_cpuid() as cpuid:
        vendor = describe(cpuid)["vendor"]
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:  # noqa: PTH123
        assert f": {vendor}\n" in cpuinfo.read()
