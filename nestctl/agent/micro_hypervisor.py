"""A micro-guest that is a hypervisor itself: what both vendors' have in common.

Its one vCPU, the micro-L1, is in 64-bit mode and runs a guest of its own, the micro-L2, with nested paging. L2 executes
CPUID again and again; each time it leaves to L1, whose machine code looks at the exit code, moves L2's instruction
pointer on, counts, and enters L2 again. After as many exits as it was told L1 ends. So one KVM_RUN from here covers
thousands of exits from L2 to L1, and every one of them was checked where it arrived.

L2 counts too, in its own memory. Only nested page tables lead there: what L2 takes for address 0 is L2_MEMORY of L1. So
that L2's count, read from outside, equals L1's proves that code ran two levels down, at its own place.
"""

from __future__ import annotations

import fcntl
import struct
from typing import Callable, Mapping, NamedTuple

from .assembler import Program, assemble
from .fact import NotFoundOut
from .kvm import (
    KVM_GET_SREGS,
    KVM_SET_SREGS,
    RIP,
    SEGMENT_REGISTERS_SIZE,
    MicroGuest,
    Sample,
)

# Places in L1's memory. A page has 4 KiB everywhere here.
PAGE = 0x1000
L1_CODE = 0x1000
L1_TABLES = 0x2000  # four pages each
NESTED_TABLES = 0x6000
CONTROL_BLOCK = 0xA000  # what the CPU keeps of L2: AMD's VMCB, Intel's VMCS
HOST_AREA = 0xB000  # what it keeps of L1: AMD's host save area, Intel's VMXON region
ARGUMENTS = 0xC000  # what L1's code reads
L2_MEMORY = 0x10000
MEMORY_SIZE = 0x18000

# Places in L2's memory, as L2 sees it.
L2_PAGES = 8
L2_CODE = 0x1000
L2_COUNT = 0x2000
L2_TABLES = 0x3000

# General registers, by their place in struct kvm_regs. Neither VMCB (but for RAX: APM volume 2, 15.5.1) nor VMCS (SDM
# volume 3, 25.4.1) has them, so L2 finds in them what L1 has there.
RBX, RCX, RDX, RSI, RDI, RBP = 1, 2, 3, 4, 5, 7

# Page tables: every level of long mode's has these bits (SDM volume 3, table 4-15; APM volume 2, 5.4). Nested paging
# takes every access of L2 for one of user mode (APM volume 2, 15.25.5), so 'user' is set everywhere.
PRESENT_WRITABLE_USER = 0x7

# Control registers (SDM volume 3, 2.5; APM volume 2, 3.1). NE is for VMX, which demands it.
CR0_PE, CR0_ET, CR0_NE, CR0_PG = 1 << 0, 1 << 4, 1 << 5, 1 << 31
CR0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA = 1 << 8, 1 << 10  # IA32_EFER: SDM volume 3, 2.2.1

CODE_SELECTOR, TASK_SELECTOR = 0x08, 0x10  # never looked up: nothing here loads a segment or takes an interrupt

# struct kvm_sregs: segments cs ds es fs gs ss tr ldt of 24 bytes, two descriptor tables of 16, then control registers.
SEGMENT = struct.Struct("=QIHBBBBBBBBBB")  # base limit selector type present dpl db s l g avl unusable padding
CONTROL_REGISTERS = struct.Struct("=QQQQQQ")  # cr0 cr2 cr3 cr4 cr8 efer
CONTROL_REGISTERS_OFFSET = 8 * SEGMENT.size + 2 * 16
CODE_TYPE, DATA_TYPE, BUSY_TASK_TYPE = 11, 3, 11  # SDM volume 3, tables 3-1 and 3-2

OUT_BYTES = 2  # of `out END_PORT, al`, with which L1 ends

KVM_EXIT_REASONS = {
    8: "in a triple fault (KVM_EXIT_SHUTDOWN)",
    9: "because the CPU refused to run it (KVM_EXIT_FAIL_ENTRY)",
    17: "because KVM could not emulate it (KVM_EXIT_INTERNAL_ERROR)",
}

L2_PROGRAM = """
again:  inc dword ptr [rdi]     ; its count
        cpuid                   ; leaves to L1, always
        jmp again
"""


class ProofFailed(NotFoundOut):
    """L2 did not run as it has to. `exit_code` is that of its last exit, None where it never ran."""

    def __init__(self, reason: str, exit_code: int | None = None) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class Vendor(NamedTuple):
    """What the vendors do not have in common.

    `program` has the labels `start` (prepares, then runs L2), `resume` (runs L2 again) and `stop` (the OUT that ends).
    At that OUT RBX has the number of exits that were as they should be, RCX the code of the last one. An OUT elsewhere
    means that an instruction of the extension failed; `explain_failure` says which, from the registers.
    """

    feature: str
    program: Program
    cpuid_exit_code: int
    exit_names: Mapping[int, str]
    explain_failure: Callable[[tuple[int, ...]], str]
    is_paging_nested: bool


class MicroHypervisor:
    """L1 with its L2, in a `MicroGuest` that `install` has prepared."""

    def __init__(self, guest: MicroGuest, vendor: Vendor) -> None:
        self.guest = guest
        self.vendor = vendor
        self._entry = "start"

    @property
    def l2_count(self) -> int:
        """What L2 has counted, at the place in memory that L2 sees as L2_COUNT."""
        count: int = struct.unpack_from("=I", self.guest.memory, L2_MEMORY + L2_COUNT)[0]
        return count

    def run(self, turns: int) -> Sample:
        """Let L2 leave to L1 `turns` times and time it.

        Raises `ProofFailed` when anything is not as it has to be, `TimeoutError` at the guest's deadline.
        """
        program, counted = self.vendor.program, self.l2_count
        elapsed_ns = self.guest.enter({RIP: L1_CODE + program.labels[self._entry], RSI: turns, RDI: L2_COUNT})
        self._entry = "resume"
        registers = tuple(self.guest.read_registers())
        self._check(registers, turns, self.l2_count - counted)
        return Sample(turns, elapsed_ns)

    def _check(self, registers: tuple[int, ...], turns: int, counted: int) -> None:
        if not self.guest.has_ended:
            reason = self.guest.exit_reason
            how = KVM_EXIT_REASONS.get(reason, f"with KVM exit reason {reason}")
            raise ProofFailed(f"The micro-hypervisor ended {how} at {registers[RIP]:#x}.")
        # KVM moves the instruction pointer past an OUT when the guest goes on; old kernels did so at once.
        if registers[RIP] - L1_CODE - self.vendor.program.labels["stop"] not in (0, OUT_BYTES):
            raise ProofFailed(f"The micro-hypervisor stopped: {self.vendor.explain_failure(registers)}.")
        exits, code = registers[RBX], registers[RCX]
        if code != self.vendor.cpuid_exit_code:
            raise ProofFailed(
                f"The micro-hypervisor's guest left with exit code {self._name(code)} after {exits} exits with "
                f"{self._name(self.vendor.cpuid_exit_code)}.",
                exit_code=code,
            )
        if not exits == counted == turns:
            raise ProofFailed(
                f"The micro-hypervisor counted {exits} exits of its guest, the guest itself {counted}, not {turns}.",
                exit_code=code,
            )

    def _name(self, code: int) -> str:
        name = self.vendor.exit_names.get(code)
        return f"{code:#x} ({name})" if name else f"{code:#x}"


def install(guest: MicroGuest, vendor: Vendor) -> MicroHypervisor:
    """Write what both vendors' L1 and L2 need into memory, and put the vCPU into 64-bit mode."""
    _write(guest, L1_CODE, vendor.program.code)
    _write(guest, L1_TABLES, render_page_tables(L1_TABLES, target=0, pages=MEMORY_SIZE // PAGE))
    _write(guest, L2_MEMORY + L2_CODE, assemble(L2_PROGRAM).code)
    # Without nested paging L2's own tables lead to L1's addresses: L1 has to translate, as all did before EPT and NPT.
    base = 0 if vendor.is_paging_nested else L2_MEMORY
    _write(guest, L2_MEMORY + L2_TABLES, render_page_tables(base + L2_TABLES, target=base, pages=L2_PAGES))
    _enter_long_mode(guest.vcpu)
    return MicroHypervisor(guest, vendor)


def l2_page_tables(is_paging_nested: bool) -> int:
    """Return what L2 has in CR3."""
    return L2_TABLES if is_paging_nested else L2_MEMORY + L2_TABLES


def render_page_tables(
    place: int,
    *,
    target: int,
    pages: int,
    table_bits: int = PRESENT_WRITABLE_USER,
    page_bits: int = PRESENT_WRITABLE_USER,
) -> bytes:
    """Render four levels of page tables, a page each, that map `pages` pages from address 0 on to `target` and on.

    `place` is where the CPU will find the first, the others behind it. Long mode, NPT and EPT differ only in the bits.
    """
    tables = bytearray(4 * PAGE)
    for level in range(3):
        struct.pack_into("<Q", tables, level * PAGE, place + (level + 1) * PAGE | table_bits)
    for page in range(pages):
        struct.pack_into("<Q", tables, 3 * PAGE + 8 * page, target + page * PAGE | page_bits)
    return bytes(tables)


def _write(guest: MicroGuest, address: int, content: bytes) -> None:
    guest.memory[address : address + len(content)] = content


def _enter_long_mode(vcpu: int) -> None:
    """Set the segments and control registers that 64-bit mode has (SDM volume 3, 10.8.5; APM volume 2, 14.6)."""
    registers = bytearray(SEGMENT_REGISTERS_SIZE)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, registers)
    code = SEGMENT.pack(0, 0xFFFFFFFF, CODE_SELECTOR, CODE_TYPE, 1, 0, 0, 1, 1, 1, 0, 0, 0)
    data = SEGMENT.pack(0, 0xFFFFFFFF, 0, DATA_TYPE, 1, 0, 1, 1, 0, 1, 0, 0, 0)
    task = SEGMENT.pack(0, 0x67, TASK_SELECTOR, BUSY_TASK_TYPE, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    registers[: 7 * SEGMENT.size] = code + 5 * data + task
    CONTROL_REGISTERS.pack_into(registers, CONTROL_REGISTERS_OFFSET, CR0, 0, L1_TABLES, CR4_PAE, 0, EFER_LME | EFER_LMA)
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(registers))
