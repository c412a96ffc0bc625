"""A micro-guest with flat 32-bit memory and counted exits.

It runs a few bytes of machine code and no operating system. Numbers and layouts are those of the kernel's <linux/kvm.h>
and <asm/kvm.h> for x86_64. Every code ends by writing to `kvm.END_PORT`.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from contextlib import ExitStack, contextmanager
from typing import Iterator

from .fact import NotFoundOut
from .kvm import (
    CPUID_ENTRY,
    CPUID_HEADER,
    KVM_CREATE_VCPU,
    KVM_GET_SREGS,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_SET_CPUID2,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_SET_USER_MEMORY_REGION,
    MEMORY_REGION,
    REGISTERS,
    RFLAGS,
    RFLAGS_RESERVED,
    RIP,
    RUN_IMMEDIATE_EXIT,
    SEGMENT_REGISTERS_SIZE,
    Vcpu,
    open_machine,
    read_supported_cpuid,
)
from .kvm_stats import Stats
from .memory import Memory
from .native import Routine, address_of

KVM_CHECK_EXTENSION = 0xAE03
KVM_CAP_TSC_DEADLINE_TIMER = 72
CPUID_1_ECX_DEADLINE = 1 << 24  # Intel SDM volume 3, 11.5.4.1
KVM_EXIT_MMIO = 6
KVM_MEM_LOG_DIRTY_PAGES = 1
KVM_SET_MP_STATE = 0x4004AE99
MP_STATE_RUNNABLE = bytes(4)  # struct kvm_mp_state: KVM_MP_STATE_RUNNABLE is 0

# struct kvm_segment: base limit selector type present dpl db s l g avl unusable padding
SEGMENT = struct.Struct("=QIH10B")
CODE_SEGMENT = SEGMENT.pack(0, 0xFFFFFFFF, 8, 0xB, 1, 0, 1, 1, 0, 1, 0, 0, 0)
DATA_SEGMENT = SEGMENT.pack(0, 0xFFFFFFFF, 16, 0x3, 1, 0, 1, 1, 0, 1, 0, 0, 0)
SEGMENTS = 6  # cs ds es fs gs ss, at the beginning of struct kvm_sregs
CR0 = struct.Struct("=Q")
CR0_AT = 224
CR0_PROTECTION = 1  # PE (Intel SDM volume 3, 2.5)

LOW_BYTES = 0x4000
CODE_ADDRESS = 0x1000
REGION_ADDRESS = 0x40000000  # 1 GiB: far from the code, and aligned for pages of any size
NAMES = {name: place for place, name in enumerate(["eax", "ebx", "ecx", "edx", "esi", "edi", "esp", "ebp"])}

# KVM_RUN again and again, as long as it ends with one exit reason: no interpreter between two exits.
# rdi: vCPU, rsi: how often, rdx: struct kvm_run, rcx: the reason. Returns how many were not done.
RUN_AGAIN = bytes.fromhex(
    "53 4154 4155 4156"  # push rbx, r12, r13, r14
    "4889f3 4989fc 4989d5 4989ce"  # mov rbx, rsi; mov r12, rdi; mov r13, rdx; mov r14, rcx
    "b810000000"  # again: mov eax, 16    ioctl (arch/x86/entry/syscalls/syscall_64.tbl)
    "4c89e7"  # mov rdi, r12
    "be80ae0000"  # mov esi, 0xae80       KVM_RUN
    "31d2"  # xor edx, edx
    "0f05"  # syscall
    "4885c0 780b"  # test rax, rax; js out
    "45397508 7505"  # cmp [r13 + 8], r14d; jne out
    "48ffcb 75df"  # dec rbx; jnz again
    "4889d8"  # out: mov rax, rbx
    "415e 415d 415c 5b c3"  # pop r14, r13, r12, rbx; ret
)


class FlatGuest(Vcpu):
    """One vCPU with flat memory. Everything is given back by `open_flat_guest`."""

    def __init__(self, vcpu: int, low: mmap.mmap, run_area: mmap.mmap, stats: Stats | None, *, no_stats: str) -> None:
        super().__init__(vcpu, run_area)
        self.no_stats = no_stats
        self.low = low
        self._stats = stats
        self._run_again = Routine(RUN_AGAIN, 4)

    def load(self, code: bytes, *, at: int = CODE_ADDRESS, **registers: int) -> None:
        """Place code, and set registers by their names; the others are 0."""
        self.low[at : at + len(code)] = code
        values = [0] * 18
        for name, value in registers.items():
            values[NAMES[name]] = value
        values[RIP] = at
        values[RFLAGS] = RFLAGS_RESERVED
        fcntl.ioctl(self.vcpu, KVM_SET_REGS, REGISTERS.pack(*values))

    def run(self) -> None:
        """Run what was loaded until it writes to `kvm.END_PORT`. Raises `NotFoundOut` when it stops in another way."""
        self.resume()
        if not self.has_ended:
            raise NotFoundOut(
                f"The micro-guest stopped with KVM exit reason {self.exit_reason} where it should have ended."
            )

    def run_again(self, times: int, reason: int) -> None:
        """Go on so many times to an exit to user space, in machine code. Raises as `run` does, and `TimeoutError`."""
        left = self._run_again(self.vcpu, times, address_of(self._run_area), reason)
        if self._run_area[RUN_IMMEDIATE_EXIT]:
            raise TimeoutError(errno.ETIMEDOUT, "the micro-guest did not come back in time")
        if left:
            raise NotFoundOut(f"The micro-guest stopped with KVM exit reason {self.exit_reason}, not {reason}.")

    def interrupt(self) -> None:
        """Have KVM_RUN come back at once, if it has not begun; one that has begun, a signal ends."""
        self._run_area[RUN_IMMEDIATE_EXIT] = 1

    def read_counters(self) -> dict[str, int]:
        """Return KVM's counters of this vCPU; empty where the kernel has none."""
        return self._stats.read() if self._stats else {}


@contextmanager
def open_flat_guest(
    device: int, *, has_pic: bool = False, region: Memory | None = None, is_logged: bool = False
) -> Iterator[tuple[int, FlatGuest]]:
    """Create a virtual machine with one vCPU in flat protected mode, and yield the machine and its guest.

    `region` is mapped at `REGION_ADDRESS`; with `is_logged` KVM notes which of its pages are written. On the way out
    all of it is gone, whatever happened; the region belongs to the caller.
    """
    with ExitStack() as stack:
        machine = stack.enter_context(open_machine(device, has_pic=has_pic))
        low = stack.enter_context(mmap.mmap(-1, LOW_BYTES))
        _map(machine, 0, 0, (address_of(low), LOW_BYTES), 0)
        if region is not None:
            _map(machine, 1, REGION_ADDRESS, (region.start, region.size), KVM_MEM_LOG_DIRTY_PAGES if is_logged else 0)
        yield machine, _add_vcpu(device, machine, low, 0, stack)


@contextmanager
def open_flat_pair(device: int) -> Iterator[tuple[FlatGuest, FlatGuest]]:
    """Create a virtual machine with two vCPUs in flat protected mode, which share their memory; both could run."""
    with ExitStack() as stack:
        machine = stack.enter_context(open_machine(device))
        low = stack.enter_context(mmap.mmap(-1, LOW_BYTES))
        _map(machine, 0, 0, (address_of(low), LOW_BYTES), 0)
        first, second = (_add_vcpu(device, machine, low, number, stack) for number in (0, 1))
        # All but the first would wait for another to start them (api.rst, 4.39).
        fcntl.ioctl(second.vcpu, KVM_SET_MP_STATE, MP_STATE_RUNNABLE)
        yield first, second


def _add_vcpu(device: int, machine: int, low: mmap.mmap, number: int, stack: ExitStack) -> FlatGuest:
    vcpu = fcntl.ioctl(machine, KVM_CREATE_VCPU, number)
    stack.callback(os.close, vcpu)
    run_area = stack.enter_context(mmap.mmap(vcpu, fcntl.ioctl(device, KVM_GET_VCPU_MMAP_SIZE, 0)))
    # A bytearray, because fcntl takes no more than 1 KiB of immutable bytes.
    fcntl.ioctl(vcpu, KVM_SET_CPUID2, read_cpuid(device))
    make_flat(vcpu)
    stats, no_stats = _open_stats(vcpu)
    if stats:
        stack.callback(stats.close)
    return FlatGuest(vcpu, low, run_area, stats, no_stats=no_stats)


def _map(machine: int, slot: int, address: int, memory: tuple[int, int], flags: int) -> None:
    start, size = memory
    region = MEMORY_REGION.pack(slot, flags, address, size, start)
    fcntl.ioctl(machine, KVM_SET_USER_MEMORY_REGION, region)


def read_cpuid(device: int) -> bytearray:
    """Give the guest what KVM supports; the TSC-deadline timer is asked for by another way (api.rst, 4.46)."""
    raw = bytearray(read_supported_cpuid(device).raw)
    if fcntl.ioctl(device, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) == 1:
        for at in range(CPUID_HEADER.size, len(raw), CPUID_ENTRY.size):
            function, index, flags, eax, ebx, ecx, *rest = CPUID_ENTRY.unpack_from(raw, at)
            if function == 1:
                CPUID_ENTRY.pack_into(raw, at, function, index, flags, eax, ebx, ecx | CPUID_1_ECX_DEADLINE, *rest)
    return raw


def _open_stats(vcpu: int) -> tuple[Stats | None, str]:
    try:
        return Stats(vcpu), ""
    except NotFoundOut as reason:
        return None, str(reason)


def make_flat(vcpu: int) -> None:
    """Protected mode without paging, with segments of 4 GiB from 0 on (Intel SDM volume 3, 3.2.1)."""
    registers = bytearray(SEGMENT_REGISTERS_SIZE)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, registers)
    registers[: SEGMENT.size * SEGMENTS] = CODE_SEGMENT + DATA_SEGMENT * (SEGMENTS - 1)
    CR0.pack_into(registers, CR0_AT, CR0.unpack_from(registers, CR0_AT)[0] | CR0_PROTECTION)
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(registers))
