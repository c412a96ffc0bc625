"""Open /dev/kvm, ask it, and run micro-guests on it: a few bytes of machine code and no operating system.

Numbers and layouts are those of the kernel's <linux/kvm.h> and <asm/kvm.h> for x86_64
(Documentation/virt/kvm/api.rst explains each call).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import signal
import struct
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

from .fact import NotFoundOut

DEVICE = "/dev/kvm"

KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_GET_SUPPORTED_CPUID = 0xC008AE05
KVM_CREATE_VCPU = 0xAE41
KVM_CREATE_IRQCHIP = 0xAE60
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_TSS_ADDR = 0xAE47
KVM_RUN = 0xAE80
KVM_GET_REGS = 0x8090AE81
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_SET_CPUID2 = 0x4008AE90
KVM_ENABLE_CAP = 0x4068AEA3
KVM_CAP_SPLIT_IRQCHIP = 121  # api.rst, 7.5: local APICs in the kernel, the other controllers in user space

KVM_EXIT_IO = 2  # kvm_run.exit_reason: the guest used a port that user space handles
RUN_IMMEDIATE_EXIT = 1  # offsetof(struct kvm_run, immediate_exit), u8
RUN_EXIT_REASON = 8  # offsetof(struct kvm_run, exit_reason), u32
RUN_IO_PORT = 34  # offsetof(struct kvm_run, io.port), u16

ENABLE_CAP = struct.Struct("=II4Q64x")  # struct kvm_enable_cap: cap flags args[4] pad
IOAPIC_PINS = 24
MEMORY_REGION = struct.Struct("=IIQQQ")  # slot, flags, guest_phys_addr, memory_size, userspace_addr
REGISTERS = struct.Struct("=18Q")  # rax rbx rcx rdx rsi rdi rsp rbp r8..r15 rip rflags
RCX, RSI, RIP, RFLAGS = 2, 4, 16, 17  # their places in struct kvm_regs
SEGMENT_REGISTERS_SIZE = 0x138  # sizeof(struct kvm_sregs); it begins with cs, a struct kvm_segment
CS_BASE = struct.Struct("=Q")  # kvm_segment.base, at 0
CS_SELECTOR = struct.Struct("=H")  # kvm_segment.selector, at 12
CPUID_HEADER = struct.Struct("=II")  # struct kvm_cpuid2: nent, padding
CPUID_ENTRY = struct.Struct("=10I")  # struct kvm_cpuid_entry2: function index flags eax ebx ecx edx padding[3]

# Intel CPUs without "unrestricted guest" need three pages for real mode, anywhere below 4 GiB that is no memory;
# QEMU puts them here too (target/i386/kvm/kvm.c).
TSS_ADDRESS = 0xFFFBD000
MEMORY_SIZE = 0x4000
CODE_ADDRESS = 0x1000
RFLAGS_RESERVED = 0x2  # bit 1 of RFLAGS always reads 1 (Intel SDM volume 1, 3.4.3)

# Every code ends by writing to this port, which nothing in the kernel handles (it is QEMU's isa-debug-exit's, too).
# HLT would wait in the kernel for an interrupt, where the interrupt controller is there.
END_PORT = 0xF4


class Sample(NamedTuple):
    """One run of a micro-guest: `turns` of its loop took `elapsed_ns`, with one KVM_RUN around them."""

    turns: int
    elapsed_ns: int

    @property
    def ns_per_turn(self) -> float:
        """The time of one turn in nanoseconds, with its share of the one KVM_RUN."""
        return self.elapsed_ns / self.turns


class SupportedCpuid(NamedTuple):
    """What KVM would give a guest: `raw` is the struct kvm_cpuid2 for KVM_SET_CPUID2."""

    raw: bytes
    entries: Sequence[tuple[int, ...]]

    @property
    def offers_vmx(self) -> bool:
        """CPUID.1:ECX bit 5 (Intel SDM volume 3, 24.6)."""
        return self.has_bit(1, "ecx", 5)

    @property
    def offers_svm(self) -> bool:
        """CPUID.80000001h:ECX bit 2 (AMD APM volume 2, 15.4)."""
        return self.has_bit(0x80000001, "ecx", 2)

    def has_bit(self, leaf: int, register: str, bit: int) -> bool:
        """Whether a bit of 'eax', 'ebx', 'ecx' or 'edx' is set in any entry of a leaf, whatever its index."""
        place = ("eax", "ebx", "ecx", "edx").index(register) + 3
        return any(entry[0] == leaf and entry[place] >> bit & 1 for entry in self.entries)


@contextmanager
def open_device(path: str = DEVICE) -> Iterator[int]:
    """Open /dev/kvm; raises OSError when it is missing, may not be opened or has no driver behind it."""
    device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield device
    finally:
        os.close(device)


def read_api_version(device: int) -> int:
    """Return what KVM_GET_API_VERSION says: 12 since Linux 2.6.22, and on every KVM that can be used."""
    return fcntl.ioctl(device, KVM_GET_API_VERSION, 0)


def read_supported_cpuid(device: int) -> SupportedCpuid:
    """Ask which CPUID a guest would be given: the one answer that covers hardware, firmware, backend and `nested`."""
    room = 256
    while True:
        buffer = bytearray(CPUID_HEADER.pack(room, 0)) + bytearray(CPUID_ENTRY.size * room)
        try:
            fcntl.ioctl(device, KVM_GET_SUPPORTED_CPUID, buffer)
            break
        except OSError as error:
            if error.errno != errno.E2BIG or room > 4096:
                raise
            room *= 2
    count, _ = CPUID_HEADER.unpack_from(buffer)
    raw = bytes(buffer[: CPUID_HEADER.size + count * CPUID_ENTRY.size])
    return SupportedCpuid(raw, tuple(CPUID_ENTRY.iter_unpack(raw[CPUID_HEADER.size :])))


class Vcpu:
    """A vCPU with its struct kvm_run, and a way to end what it runs."""

    def __init__(self, vcpu: int, run_area: mmap.mmap) -> None:
        self.vcpu = vcpu
        self._run_area = run_area
        self._is_running = False
        self._overdue = ""

    @property
    def exit_reason(self) -> int:
        """Why the guest left last: kvm_run.exit_reason."""
        reason: int = struct.unpack_from("=I", self._run_area, RUN_EXIT_REASON)[0]
        return reason

    @property
    def has_ended(self) -> bool:
        """Whether it left last by writing to `END_PORT`."""
        (port,) = struct.unpack_from("=H", self._run_area, RUN_IO_PORT)
        return (self.exit_reason, port) == (KVM_EXIT_IO, END_PORT)

    def resume(self) -> int:
        """Run from the registers it has until the guest leaves to here; return ns. Raises `TimeoutError`."""
        self._is_running = True
        try:
            begun_ns = time.perf_counter_ns()
            fcntl.ioctl(self.vcpu, KVM_RUN, 0)
            return max(1, time.perf_counter_ns() - begun_ns)
        except InterruptedError as error:  # the deadline passed between two runs
            raise TimeoutError(errno.ETIMEDOUT, self._overdue) from error
        finally:
            self._is_running = False

    @contextmanager
    def deadline(self, timeout_s: float) -> Iterator[None]:
        """End a run with `TimeoutError` when the time is over. Only the main thread may use it: it takes SIGALRM."""

        def interrupt(_number: int, _frame: Any) -> None:
            # KVM_RUN that is only about to begin sees this byte; one that has begun was woken by the signal.
            self._run_area[RUN_IMMEDIATE_EXIT] = 1
            if self._is_running:
                self._is_running = False
                raise TimeoutError(errno.ETIMEDOUT, self._overdue)

        self._overdue = f"the micro-guest did not end within {timeout_s:g} s"
        previous = signal.signal(signal.SIGALRM, interrupt)
        # It repeats: a first signal may come in the moment between Python's last look and KVM_RUN.
        signal.setitimer(signal.ITIMER_REAL, timeout_s, 0.02)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
            self._run_area[RUN_IMMEDIATE_EXIT] = 0


class MicroGuest(Vcpu):
    """One vCPU and its memory, from address 0 on. Everything is given back by `open_micro_guest`."""

    def __init__(self, vcpu: int, memory: mmap.mmap, run_area: mmap.mmap) -> None:
        super().__init__(vcpu, run_area)
        self.memory = memory

    def run(self, code: bytes, turns: int) -> Sample:
        """Run `code` with `turns` in ECX and ESI until it writes to `END_PORT`, and time it.

        Raises `TimeoutError` when the alarm of `deadline` ends it, `NotFoundOut` when it stops in another way.
        """
        self.memory[CODE_ADDRESS : CODE_ADDRESS + len(code)] = code
        elapsed_ns = self.enter({RCX: turns, RSI: turns, RIP: CODE_ADDRESS})
        if not self.has_ended:
            raise NotFoundOut(
                f"The micro-guest stopped with KVM exit reason {self.exit_reason} where it should have ended."
            )
        return Sample(turns, elapsed_ns)

    def enter(self, registers: Mapping[int, int]) -> int:
        """Run from these registers (by their place in struct kvm_regs) until the guest leaves to here; return ns."""
        values = [0] * 18
        values[RFLAGS] = RFLAGS_RESERVED
        for place, value in registers.items():
            values[place] = value
        fcntl.ioctl(self.vcpu, KVM_SET_REGS, REGISTERS.pack(*values))
        return self.resume()

    def read_registers(self) -> Sequence[int]:
        """Return the vCPU's general registers in the order of struct kvm_regs, then RIP and RFLAGS."""
        return REGISTERS.unpack(fcntl.ioctl(self.vcpu, KVM_GET_REGS, bytes(REGISTERS.size)))


@contextmanager
def open_machine(device: int, *, has_pic: bool = False) -> Iterator[int]:
    """Create a virtual machine whose vCPUs get their interrupt controller, the local APIC, from the kernel.

    For a vCPU without one KVM patches its own code and interrupts all CPUs for it (`kvm_has_noapic_vcpu` in
    arch/x86/kvm/lapic.c). With `has_pic` the machine's own controllers are there too, PIC and I/O APIC, for which the
    kernel takes a hundredth of a second when the machine goes. A backend without any is taken as it is, unless a PIC is
    asked for.
    """
    if platform.machine() != "x86_64":
        raise NotFoundOut(f"The micro-guest is x86 machine code, and this is {platform.machine()}.")
    machine = fcntl.ioctl(device, KVM_CREATE_VM, 0)
    try:
        # The address is the argument itself; fcntl takes only signed numbers.
        fcntl.ioctl(machine, KVM_SET_TSS_ADDR, TSS_ADDRESS - (1 << 32))
        if has_pic:
            fcntl.ioctl(machine, KVM_CREATE_IRQCHIP, 0)
        else:
            with suppress(OSError):
                fcntl.ioctl(machine, KVM_ENABLE_CAP, ENABLE_CAP.pack(KVM_CAP_SPLIT_IRQCHIP, 0, IOAPIC_PINS, 0, 0, 0))
        yield machine
    finally:
        os.close(machine)


@contextmanager
def keep_virtualization_on() -> Iterator[None]:
    """Keep a machine while others come and go, where one can be made.

    With the first one the kernel makes every CPU enter VMX or SVM operation and patches its scheduler
    (preempt_notifier_inc), with the last one it undoes that.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            device = stack.enter_context(open_device())
            stack.callback(os.close, fcntl.ioctl(device, KVM_CREATE_VM, 0))
        yield


@contextmanager
def open_micro_guest(device: int, memory_size: int = MEMORY_SIZE) -> Iterator[MicroGuest]:
    """Create a virtual machine with one vCPU in real mode; on the way out all of it is gone, whatever happened."""
    with ExitStack() as stack:
        machine = stack.enter_context(open_machine(device))
        memory = stack.enter_context(mmap.mmap(-1, memory_size))
        region = MEMORY_REGION.pack(0, 0, 0, memory_size, _address_of(memory))
        fcntl.ioctl(machine, KVM_SET_USER_MEMORY_REGION, region)
        vcpu = fcntl.ioctl(machine, KVM_CREATE_VCPU, 0)
        stack.callback(os.close, vcpu)
        run_area = stack.enter_context(mmap.mmap(vcpu, fcntl.ioctl(device, KVM_GET_VCPU_MMAP_SIZE, 0)))
        # A bytearray, because fcntl takes no more than 1 KiB of immutable bytes.
        fcntl.ioctl(vcpu, KVM_SET_CPUID2, bytearray(read_supported_cpuid(device).raw))
        _start_code_segment_at_zero(vcpu)
        yield MicroGuest(vcpu, memory, run_area)


def _address_of(memory: mmap.mmap) -> int:
    # The c_char has to be gone before the mmap can be closed, so it never gets a name.
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _start_code_segment_at_zero(vcpu: int) -> None:
    """A CPU comes out of reset with CS at 0xffff0000 (Intel SDM volume 3, 10.1.4); the code is at CODE_ADDRESS."""
    segments = bytearray(SEGMENT_REGISTERS_SIZE)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, segments)
    CS_BASE.pack_into(segments, 0, 0)
    CS_SELECTOR.pack_into(segments, 12, 0)
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(segments))
