"""Execute CPUID on this CPU: the kernel hides flags that the firmware switched off, the instruction does not.

Leaves and bits: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from contextlib import contextmanager
from typing import Any, Callable, Iterator, NamedTuple

from .fact import Fact, NotFoundOut, find_out

# void f(uint32_t leaf /* edi */, uint32_t subleaf /* esi */, uint32_t *out /* rdx */), System V AMD64 convention.
CPUID_FUNCTION = bytes.fromhex(
    "53"  #          push rbx          ; the callee has to keep it, and cpuid overwrites it
    "49 89 d0"  #    mov r8, rdx       ; cpuid overwrites edx
    "89 f8"  #       mov eax, edi
    "89 f1"  #       mov ecx, esi
    "0f a2"  #       cpuid
    "41 89 00"  #    mov [r8], eax
    "41 89 58 04"  # mov [r8 + 4], ebx
    "41 89 48 08"  # mov [r8 + 8], ecx
    "41 89 50 0c"  # mov [r8 + 12], edx
    "5b"  #          pop rbx
    "c3"  #          ret
)

# Hypervisors present themselves from here on, in steps of 0x100: with Hyper-V enlightenments KVM moves one step up.
HYPERVISOR_LEAVES = range(0x40000000, 0x40010001, 0x100)


class Registers(NamedTuple):
    """What CPUID leaves in the four registers, unsigned."""

    eax: int
    ebx: int
    ecx: int
    edx: int


Cpuid = Callable[[int], Registers]


@contextmanager
def open_cpuid() -> Iterator[Cpuid]:
    """Return a function that executes CPUID with a leaf (and subleaf 0) on the CPU that happens to run it."""
    if platform.machine() != "x86_64":
        raise NotFoundOut(f"CPUID is an x86 instruction, and this is {platform.machine()}.")
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(CPUID_FUNCTION)
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32))
        # The c_char has to be gone before the page can be closed, so it never gets a name.
        function = prototype(ctypes.addressof(ctypes.c_char.from_buffer(page)))

        def cpuid(leaf: int) -> Registers:
            out = (ctypes.c_uint32 * 4)()
            function(leaf, 0, out)
            return Registers(*out)

        yield cpuid


def describe(cpuid: Cpuid) -> dict[str, Any]:
    """Say what the CPU, or the hypervisor above, shows in its leaves."""
    highest = cpuid(0)
    extended = cpuid(0x80000000).eax
    has_hypervisor = bool(cpuid(1).ecx >> 31 & 1)
    return {
        "vendor": _text(highest.ebx, highest.edx, highest.ecx),
        "vmx": bool(cpuid(1).ecx >> 5 & 1),
        "svm": extended >= 0x80000001 and bool(cpuid(0x80000001).ecx >> 2 & 1),
        "hypervisor": has_hypervisor,
        "signatures": read_signatures(cpuid) if has_hypervisor else [],
        "leaves": {f"{leaf:#x}": [f"{register:#x}" for register in cpuid(leaf)] for leaf in _raw_leaves(cpuid)},
    }


def _raw_leaves(cpuid: Cpuid) -> list[int]:
    """Name the leaves that are kept as they are: features, SVM's own, and the head of each hypervisor's block."""
    basic, extended = cpuid(0).eax, cpuid(0x80000000).eax
    hypervisor = HYPERVISOR_LEAVES if cpuid(1).ecx >> 31 & 1 else ()
    return [
        *(leaf for leaf in (0x0, 0x1, 0x7) if leaf <= basic),
        *(leaf for leaf in hypervisor if _is_block(leaf, cpuid(leaf))),
        *(leaf for leaf in (0x80000000, 0x80000001, 0x80000008, 0x8000000A) if leaf <= extended),
    ]


def read_signatures(cpuid: Cpuid) -> list[str]:
    """Return what the hypervisors above call themselves, such as 'KVMKVMKVM', nearest leaf first."""
    found: list[str] = []
    for leaf in HYPERVISOR_LEAVES:
        registers = cpuid(leaf)
        if not _is_block(leaf, registers):
            continue
        signature = _text(registers.ebx, registers.ecx, registers.edx)
        if signature and signature not in found:
            found.append(signature)
    return found


def _is_block(leaf: int, registers: Registers) -> bool:
    """A CPU answers a leaf it does not have with the data of another one: only a block's head names its last leaf."""
    return leaf <= registers.eax < leaf + 0x100


def _text(*words: int) -> str:
    raw = b"".join(word.to_bytes(4, "little") for word in words)
    return raw.rstrip(b"\0").decode("ascii", "replace").strip()


def read_facts() -> Fact:
    """Return what `describe` says as a fact; unknown where this is no x86 machine or the page may not be executed."""

    def look() -> dict[str, Any]:
        with open_cpuid() as cpuid:
            return describe(cpuid)

    return find_out(look)
