"""Ask /dev/kvm in full what it would give a guest: capabilities, CPUID, and the registers that describe VMX.

Numbers: <linux/kvm.h>, for x86_64 where they differ. All questions go to the device itself; no guest is made.
"""

from __future__ import annotations

import errno
import fcntl
import platform
import struct
from functools import partial
from typing import Any

from .fact import Fact, NotFoundOut, find_out
from .kvm import open_device, read_supported_cpuid

KVM_CHECK_EXTENSION = 0xAE03
KVM_GET_MSR_FEATURE_INDEX_LIST = 0xC004AE0A
KVM_GET_MSRS = 0xC008AE88

# KVM_CAP_..., of <linux/kvm.h>.
CAPABILITIES = {
    "NR_VCPUS": 9,
    "NR_MEMSLOTS": 10,
    "TSC_CONTROL": 60,
    "MAX_VCPUS": 66,
    "X86_SMM": 117,
    "MAX_VCPU_ID": 128,
    "GET_MSR_FEATURES": 153,
    "S390_HPAGE_1M": 156,
    "NESTED_STATE": 157,
    "PPC_NESTED_HV": 160,
    "HYPERV_ENLIGHTENED_VMCS": 163,
    "EXCEPTION_PAYLOAD": 164,
    "HYPERV_DIRECT_TLBFLUSH": 175,
    "SMALLER_MAXPHYADDR": 185,
    "SYS_HYPERV_CPUID": 191,
    "SYS_ATTRIBUTES": 209,
    "ARM_EL2": 240,
    "ARM_EL2_E2H0": 241,
}

# Leaves that are kept of KVM_GET_SUPPORTED_CPUID: features of Intel and AMD, and SVM's own.
CPUID_LEAVES = frozenset({0x1, 0x7, 0x80000001, 0x8000000A})

# IA32_VMX_BASIC to IA32_VMX_VMFUNC (Intel SDM volume 3, appendix A).
VMX_MSRS = range(0x480, 0x492)

MSR_LIST = struct.Struct("=I")  # struct kvm_msr_list: nmsrs, then the indices
MSRS = struct.Struct("=IIIIQ")  # struct kvm_msrs: nmsrs, pad, and one kvm_msr_entry: index, reserved, data


def read_capabilities() -> dict[str, int]:
    """Return what KVM_CHECK_EXTENSION says of each capability; 0 is 'not there'."""
    with open_device() as device:
        return {name: fcntl.ioctl(device, KVM_CHECK_EXTENSION, number) for name, number in CAPABILITIES.items()}


def read_cpuid() -> dict[str, list[str]]:
    """Return the leaves a guest would see, {'0x7' or '0x7.1': [eax, ebx, ecx, edx]} in hexadecimal."""
    with open_device() as device:
        entries = read_supported_cpuid(device).entries
    return {
        f"{entry[0]:#x}" + (f".{entry[1]}" if entry[1] else ""): [f"{register:#x}" for register in entry[3:7]]
        for entry in entries
        if entry[0] in CPUID_LEAVES
    }


def read_vmx_msrs() -> dict[str, Fact]:
    """Return the registers in which a guest would read what its VMX can do, {'0x480': hexadecimal}.

    One register in a call: KVM answers with how many it read, and so says which one it would not give.
    """
    if platform.machine() != "x86_64":
        raise NotFoundOut(f"VMX is Intel's, and this is {platform.machine()}.")
    with open_device() as device:
        if not fcntl.ioctl(device, KVM_CHECK_EXTENSION, CAPABILITIES["GET_MSR_FEATURES"]):
            raise NotFoundOut("This KVM does not describe its guests' registers (KVM_CAP_GET_MSR_FEATURES is 0).")
        listed = _read_feature_indices(device)
        read = {number: find_out(partial(_read_msr, device, number, listed)) for number in VMX_MSRS}
    return {f"{number:#x}": fact for number, fact in read.items()}


def _read_feature_indices(device: int) -> frozenset[int]:
    room = 64
    while True:
        buffer = bytearray(MSR_LIST.pack(room)) + bytearray(4 * room)
        try:
            fcntl.ioctl(device, KVM_GET_MSR_FEATURE_INDEX_LIST, buffer)
            break
        except OSError as error:
            if error.errno != errno.E2BIG or room > 4096:
                raise
            room *= 2
    (count,) = MSR_LIST.unpack_from(buffer)
    return frozenset(struct.unpack_from(f"={count}I", buffer, MSR_LIST.size))


def _read_msr(device: int, number: int, listed: frozenset[int]) -> str:
    if number not in listed:
        raise NotFoundOut("KVM does not list it among the registers that describe features.")
    buffer = bytearray(MSRS.pack(1, 0, number, 0, 0))
    if fcntl.ioctl(device, KVM_GET_MSRS, buffer) != 1:
        raise NotFoundOut("KVM lists it and does not give it: nesting is off.")
    return f"{MSRS.unpack_from(buffer)[4]:#x}"


QUESTIONS: dict[str, Any] = {
    "capabilities": read_capabilities,
    "supported_cpuid": read_cpuid,
    "vmx_msrs": read_vmx_msrs,
}
