"""What it costs one vCPU to reach another: an interrupt between two vCPUs of a micro-guest, running or halted.

Both have x2APICs in the kernel (Intel SDM volume 3, 11.12): their registers are MSRs, and each write of the interrupt
command register leaves, where the hardware does not send interrupts between vCPUs itself. The second vCPU counts in
memory what has reached it, and that is compared with what was sent.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import Iterator

from .exits import FEWEST_EXITS, LAPIC_ENABLED, LAPIC_SPURIOUS, TIMEOUT_S, change_lapic, prove_exits, render_remark
from .fact import NotFoundOut
from .flat_guest import CODE_ADDRESS, FlatGuest, open_flat_pair
from .kernel import bound_to
from .kvm import END_PORT, KVM_EXIT_IO, KVM_GET_SREGS, KVM_SET_SREGS, SEGMENT_REGISTERS_SIZE, open_device
from .kvm_stats import EXITS
from .native import NotMeasuredError
from .sampling import Outcome, SampleRecord, Time, take_timed, timed

# Places in the memory of both; the first one's code is at flat_guest.CODE_ADDRESS.
SECOND_CODE = 0x1400
HANDLERS = (0x1800, 0x1A00)  # of the first vCPU, and of the second
DESCRIPTORS = 0x2000
GATES = (0x2400, 0x2800)
COUNT = 0x2F00  # what has reached the second, 32 bits
STACKS = (0x3800, 0x4000)  # they grow down

# Segment descriptors (SDM volume 3, 3.4.5): null, code and data of 4 GiB, as the vCPUs already have them.
DESCRIPTOR_TABLE = struct.pack("<3Q", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF)
GATE = struct.Struct("<HHHH")  # an interrupt gate (6.11): offset, selector, type, offset
CODE_SELECTOR, PRESENT_GATE = 8, 0x8E00
VECTOR = 0x40
TGKILL = 234  # arch/x86/entry/syscalls/syscall_64.tbl

# struct kvm_sregs behind eight segments: gdt and idt (base limit padding), six registers, then apic_base.
TABLE = struct.Struct("=QH6x")
GDT_AT, IDT_AT, APIC_BASE_AT = 192, 208, 272
APIC_BASE = struct.Struct("=Q")
APIC_X2 = 1 << 10  # SDM volume 3, 11.12.1

# 32-bit code. Registers of the x2APIC (11.12.1.2): 80b end of interrupt, 830 interrupt command.
_SEND_TO_SECOND = f"b930080000 b8{VECTOR:02x}000000 ba01000000 0f30"  # mov ecx, 830; mov eax, VECTOR; mov edx, 1; wrmsr
_SEND_TO_FIRST = f"b930080000 b8{VECTOR:02x}000000 31d2 0f30"  # the same with xor edx, edx
_END_OF_INTERRUPT = "b90b080000 31c0 31d2 0f30"  # mov ecx, 80b; xor eax, eax; xor edx, edx; wrmsr
_COUNT = f"ff05 {COUNT.to_bytes(4, 'little').hex()}"  # inc dword [COUNT]
_READ_COUNT = f"8b3d {COUNT.to_bytes(4, 'little').hex()}"  # mov edi, [COUNT]
_IS_COUNT = f"3b3d {COUNT.to_bytes(4, 'little').hex()}"  # cmp edi, [COUNT]
_END = f"e6 {END_PORT:02x}"  # out END_PORT, al

PING = bytes.fromhex(
    _SEND_TO_SECOND  # again:
    + "fb f4 fa"  # sti; hlt; cli        until the second's interrupt
    + f"4e 75e9 {_END}"  # dec esi; jnz again
)
SEND = bytes.fromhex(
    _READ_COUNT  # again:
    + _SEND_TO_SECOND
    + f"f390 {_IS_COUNT} 74f6"  # wait: pause; cmp edi, [COUNT]; jz wait
    + f"4e 75dc {_END}"  # dec esi; jnz again
)
HALT = bytes.fromhex("fb f4 ebfc")  # again: sti; hlt; jmp again
SPIN = bytes.fromhex("fb f390 ebfc")  # sti; again: pause; jmp again
ANSWER = bytes.fromhex(f"{_COUNT} {_END_OF_INTERRUPT} {_SEND_TO_FIRST} cf")  # ...; iret
TAKE = bytes.fromhex(f"{_COUNT} {_END_OF_INTERRUPT} cf")
# It returns behind the halt wherever it came from: between "sti" and "hlt" no interrupt may come (SDM volume 2, STI),
# but one does where a guest is left in between by a CPU that forgets it (QEMU's SVM), and nobody would end the halt.
_BEHIND_HALT = (CODE_ADDRESS + len(bytes.fromhex(_SEND_TO_SECOND)) + 2).to_bytes(4, "little").hex()
WOKEN = bytes.fromhex(f"{_END_OF_INTERRUPT} c70424 {_BEHIND_HALT} cf")  # ...; mov dword [esp], ...; iret


def measure_ipi(samples: int, target_ns: int) -> Outcome:
    """Time an interrupt to a vCPU that runs on another CPU, until its handler has counted it; operations are those."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise NotMeasuredError("this machine has one CPU")
    how = f"vCPU threads on CPUs {cpus[0]} and {cpus[1]}; wrmsr to the x2APIC, then pause until the handler counted"
    return _measure(samples, target_ns, (SEND, SPIN, TAKE), (cpus[0], cpus[1]), how, counter="")


def measure_halt_wake(samples: int, target_ns: int) -> Outcome:
    """Time an interrupt to a vCPU that has halted, and one back to the first, which has halted, too.

    Operations are such round trips: two interrupts and two wake-ups.
    """
    cpus = sorted(os.sched_getaffinity(0))
    places = (cpus[0], cpus[min(1, len(cpus) - 1)])
    how = f"vCPU threads on CPUs {places[0]} and {places[1]}; each halts until the x2APIC's interrupt of the other"
    return _measure(samples, target_ns, (PING, HALT, ANSWER), places, how, counter="halt_exits")


def _measure(
    samples: int, target_ns: int, codes: tuple[bytes, bytes, bytes], cpus: tuple[int, int], how: str, *, counter: str
) -> Outcome:
    ours, theirs, handler = codes
    with ExitStack() as stack:
        device = stack.enter_context(open_device())
        first, second = stack.enter_context(open_flat_pair(device))
        stack.enter_context(first.deadline(TIMEOUT_S))
        prove_exits(first)
        for vcpu, gates, place, code in zip((first, second), GATES, HANDLERS, (WOKEN, handler)):
            _let_interrupt(vcpu, gates, place, code)
        second.load(theirs, at=SECOND_CODE, esp=STACKS[1])
        stack.enter_context(bound_to(cpus[0]))
        stack.enter_context(_running(second, cpus[1]))
        taken = take_timed(time_interrupts(first, ours, counter), samples, target_ns, FEWEST_EXITS, warm_ups=1)
        no_stats = first.no_stats
    remark = render_remark(f"the exits are not proved: {no_stats}" if no_stats else "")
    return {"samples": taken, "how": f"a guest without operating system in /dev/kvm: {how}", "remark": remark}


def _let_interrupt(guest: FlatGuest, gates: int, place: int, handler: bytes) -> None:
    """Give a vCPU a handler for `VECTOR`, switch its APIC on, and to x2APIC mode.

    An interrupt that comes before the vCPU runs then waits for it.
    """
    change_lapic(guest, {LAPIC_SPURIOUS: LAPIC_ENABLED})
    guest.low[DESCRIPTORS : DESCRIPTORS + len(DESCRIPTOR_TABLE)] = DESCRIPTOR_TABLE
    guest.low[place : place + len(handler)] = handler
    GATE.pack_into(guest.low, gates + 8 * VECTOR, place & 0xFFFF, CODE_SELECTOR, PRESENT_GATE, place >> 16)
    registers = bytearray(SEGMENT_REGISTERS_SIZE)
    fcntl.ioctl(guest.vcpu, KVM_GET_SREGS, registers)
    TABLE.pack_into(registers, GDT_AT, DESCRIPTORS, len(DESCRIPTOR_TABLE) - 1)
    TABLE.pack_into(registers, IDT_AT, gates, 8 * VECTOR + 7)
    (base,) = APIC_BASE.unpack_from(registers, APIC_BASE_AT)
    APIC_BASE.pack_into(registers, APIC_BASE_AT, base | APIC_X2)
    fcntl.ioctl(guest.vcpu, KVM_SET_SREGS, bytes(registers))


@contextmanager
def _running(guest: FlatGuest, cpu: int) -> Iterator[None]:
    """Run a vCPU in a thread of its own as long as the context; its KVM_RUN is ended by a signal.

    That is the deadline's SIGALRM: it has a handler here, so it does not end the process.
    """

    def run() -> None:
        os.sched_setaffinity(0, {cpu})  # of this thread
        # It was ended; or that it does not answer is found by the deadline of the first.
        with suppress(TimeoutError, NotFoundOut):
            guest.run_again(1, KVM_EXIT_IO)

    libc = ctypes.CDLL(None)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        guest.interrupt()
        while thread.is_alive():
            # By its kernel's number, for it may have ended just now (pthread_kill(3) must not be given such a thread).
            libc.syscall(TGKILL, os.getpid(), thread.native_id, signal.SIGALRM)
            thread.join(0.01)


def time_interrupts(guest: FlatGuest, code: bytes, counter: str) -> Time:
    """Return what times a number of interrupts; `counter` is KVM's for what has to happen with each, if any."""

    def time_operations(count: int) -> SampleRecord:
        guest.load(code, esi=count, esp=STACKS[0])
        counters, arrived = guest.read_counters(), _arrived(guest)
        record = timed(lambda _: guest.run(), count)
        reached = (_arrived(guest) - arrived) % (1 << 32)
        after = guest.read_counters()
        if EXITS in after:
            record["exits"] = after[EXITS] - counters[EXITS]
        if reached != count:
            record["void"] = f"{reached} of {count} interrupts have reached the other vCPU"
        elif counter in after and after[counter] - counters[counter] < count // 2:
            record["void"] = f"KVM counted {after[counter] - counters[counter]} '{counter}' for {count} operations"
        return record

    return time_operations


def _arrived(guest: FlatGuest) -> int:
    count: int = struct.unpack_from("=I", guest.low, COUNT)[0]
    return count
