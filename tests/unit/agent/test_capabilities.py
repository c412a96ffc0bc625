"""What KVM says of itself, where /dev/kvm opens."""

from __future__ import annotations

import platform

import pytest

from nestctl.agent import capabilities, kvm, proof
from nestctl.agent.fact import find_out


@pytest.fixture(autouse=True)
def _device() -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the numbers are those of x86_64")
    try:
        with kvm.open_device():
            pass
    except OSError as error:
        pytest.skip(f"/dev/kvm does not open: {error.strerror}")


def test_capabilities_are_numbers_that_kvm_gives() -> None:
    found = capabilities.read_capabilities()
    assert set(found) == set(capabilities.CAPABILITIES)
    assert 1 <= found["NR_VCPUS"] <= found["MAX_VCPUS"]


def test_cpuid_in_full_agrees_with_what_is_offered() -> None:
    leaves = capabilities.read_cpuid()
    offers = find_out(proof._ask_offers)["value"]
    assert bool(int(leaves["0x1"][2], 16) >> 5 & 1) is offers["vmx"]
    assert bool(int(leaves["0x80000001"][2], 16) >> 2 & 1) is offers["svm"]


def test_the_registers_of_vmx_are_given_exactly_where_vmx_is() -> None:
    has_vmx = find_out(proof._ask_offers)["value"]["vmx"]
    read = find_out(capabilities.read_vmx_msrs).get("value", {})
    assert ("value" in read.get("0x480", {})) is has_vmx
    assert all(("value" in fact) != ("unknown" in fact) for fact in read.values())
