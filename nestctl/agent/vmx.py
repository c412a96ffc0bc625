"""The micro-hypervisor with Intel's VMX: VMXON, one VMCS, VMLAUNCH and then VMRESUME in a loop.

Sections are those of the Intel 64 and IA-32 Software Developer's Manual, volume 3C; "A" is its appendix on the
capability MSRs, "B" the one on the fields' encodings.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from typing import NamedTuple

from .assembler import Program, assemble
from .fact import NotFoundOut
from .kvm import END_PORT, MicroGuest
from .micro_hypervisor import (
    ARGUMENTS,
    CONTROL_BLOCK,
    CR0,
    CR4_PAE,
    HOST_AREA,
    L1_CODE,
    L2_MEMORY,
    L2_PAGES,
    NESTED_TABLES,
    RBP,
    RCX,
    RDX,
    MicroHypervisor,
    Vendor,
    install,
    render_page_tables,
)
from .vmcs import (
    EXIT_REASON,
    GUEST_RIP,
    HOST_RIP,
    VM_INSTRUCTION_ERROR,
    render_counts_and_masks,
    render_guest,
    render_host,
    render_segments,
)

MSR_FEATURE_CONTROL = 0x3A  # 24.7: VMXON needs the firmware's consent, and the lock on it
FEATURE_CONTROL_LOCKED, FEATURE_CONTROL_VMX = 1 << 0, 1 << 2
MSR_VMX_BASIC = 0x480  # A.1: bits 30:0 are the revision that VMXON region and VMCS begin with
MSR_VMX_CR0_FIXED0, MSR_VMX_CR4_FIXED0 = 0x486, 0x488  # A.7, A.8: bits that have to be 1
CR4_VMXE_BIT = 13

KVM_GET_MSRS, KVM_SET_MSRS = 0xC008AE88, 0x4008AE89
MSR_ENTRY = struct.Struct("=IIIIQ")  # struct kvm_msrs with one entry: nmsrs pad, index reserved data


class Control(NamedTuple):
    """A field of control bits, with the capability MSR that says what it may and must have, and what is wanted."""

    field: int
    msr: int
    wanted: int

    def adjust(self, capability: int) -> int:
        """Bits 31:0 of the MSR have to be 1, what is 0 in bits 63:32 has to be 0 (A.2)."""
        return (self.wanted | capability & 0xFFFFFFFF) & capability >> 32


USE_SECONDARY = 1 << 31  # in PROCESSOR_BASED
ENABLE_EPT = 1 << 1  # in SECONDARY
PIN_BASED = Control(0x4000, 0x481, 0)  # 25.6.1, A.3.1
PROCESSOR_BASED = Control(0x4002, 0x482, 1 << 7 | USE_SECONDARY)  # 25.6.2, A.3.2; bit 7: HLT leaves
SECONDARY = Control(0x401E, 0x48B, ENABLE_EPT)  # 25.6.2, A.3.3
VM_EXIT = Control(0x400C, 0x483, 1 << 9)  # 25.7.1, A.4; L1 is in 64-bit mode
VM_ENTRY = Control(0x4012, 0x484, 1 << 9)  # 25.8.1, A.5; L2 is in 64-bit mode

# EPT entries (29.3.2): read, write, execute; in one that maps a page also the memory type, 6 is write-back.
EPT_TABLE_BITS = 0x7
EPT_PAGE_BITS = 0x7 | 6 << 3

EXIT_CPUID = 10
EXIT_NAMES = {  # appendix C; bit 31: the entry itself failed
    0: "an exception",
    2: "a triple fault",
    10: "CPUID",
    12: "HLT",
    48: "EPT violation",
    49: "EPT misconfiguration",
    0x80000021: "VM entry refused the guest's state",
    0x80000022: "VM entry could not load MSRs",
}

# L1 has in RBP which of these it executes next; their names stand for their numbers in its program.
INSTRUCTIONS = ("VMXON", "VMCLEAR", "VMPTRLD", "VMWRITE", "VMLAUNCH", "VMRESUME")

FIELDS_OFFSET = 0x10  # in ARGUMENTS, behind the addresses of VMXON region and VMCS

PROGRAM = """
start:  mov rax, cr4
        bts rax, CR4_VMXE_BIT
        mov cr4, rax            ; from here on the CPU has VMXON
        mov eax, ARGUMENTS
        mov ebp, VMXON
        vmxon [rax]             ; a failure sets CF or ZF (31.2)
        jbe failed
        mov ebp, VMCLEAR
        vmclear [rax + 8]
        jbe failed
        mov ebp, VMPTRLD
        vmptrld [rax + 8]
        jbe failed
        mov ebp, VMWRITE
        mov r8, rax
        mov ecx, FIELDS         ; how many: pairs of encoding and value
field:  mov rdx, qword ptr [r8 + FIELDS_OFFSET]
        mov rax, qword ptr [r8 + VALUES_OFFSET]
        vmwrite rdx, rax
        jbe failed
        add r8, 16
        dec ecx
        jnz field
        mov ebp, VMLAUNCH
        xor ebx, ebx            ; exits
        vmlaunch                ; L2 runs; it comes back at 'exit'
failed: mov eax, VM_INSTRUCTION_ERROR
        vmread rcx, rax         ; rdx: the field, where VMWRITE failed
        out END_PORT, al
resume: mov ebp, VMRESUME
        xor ebx, ebx
again:  vmresume
        jmp failed
exit:   mov edx, EXIT_REASON
        vmread rcx, rdx
        cmp rcx, EXIT_CPUID
        jnz stop
        mov edx, GUEST_RIP
        vmread rax, rdx
        add rax, 2              ; CPUID has two bytes
        vmwrite rdx, rax
        mov ebp, VMRESUME
        inc ebx
        dec esi                 ; exits left
        jnz again
stop:   out END_PORT, al
"""


def install_vmx(guest: MicroGuest) -> MicroHypervisor:
    """Prepare `guest` as a VMX hypervisor; with EPT where KVM lets a guest have it."""
    try:
        _write_msr(guest.vcpu, MSR_FEATURE_CONTROL, FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMX)
        revision = _read_msr(guest.vcpu, MSR_VMX_BASIC) & 0x7FFFFFFF
        controls = _choose_controls(guest.vcpu)
        cr0 = CR0 | _read_msr(guest.vcpu, MSR_VMX_CR0_FIXED0)
        cr4 = CR4_PAE | _read_msr(guest.vcpu, MSR_VMX_CR4_FIXED0)
    except OSError as error:
        raise NotFoundOut(f"KVM offers VMX to guests, and refuses its MSRs: {error.strerror}.") from error
    is_paging_nested = bool(controls.get(SECONDARY.field, 0) & ENABLE_EPT)
    fields = {
        **controls,
        **render_counts_and_masks(is_paging_nested),
        **render_segments(),
        **render_guest(cr0, cr4, is_paging_nested),
        **render_host(cr0, cr4, rip=0),
    }
    program = assemble_program(len(fields))
    fields[HOST_RIP] = L1_CODE + program.labels["exit"]
    for area in (CONTROL_BLOCK, HOST_AREA):
        struct.pack_into("<I", guest.memory, area, revision)
    struct.pack_into("<QQ", guest.memory, ARGUMENTS, HOST_AREA, CONTROL_BLOCK)
    for number, pair in enumerate(fields.items()):
        struct.pack_into("<QQ", guest.memory, ARGUMENTS + FIELDS_OFFSET + 16 * number, *pair)
    tables = render_page_tables(
        NESTED_TABLES, target=L2_MEMORY, pages=L2_PAGES, table_bits=EPT_TABLE_BITS, page_bits=EPT_PAGE_BITS
    )
    guest.memory[NESTED_TABLES : NESTED_TABLES + len(tables)] = tables
    vendor = Vendor(
        feature="vmx",
        program=program,
        cpuid_exit_code=EXIT_CPUID,
        exit_names=EXIT_NAMES,
        explain_failure=explain_failure,
        is_paging_nested=is_paging_nested,
    )
    return install(guest, vendor)


def _choose_controls(vcpu: int) -> dict[int, int]:
    """Ask the capability MSRs what may and what must be set; the secondary controls only where there are any."""
    controls = {it.field: it.adjust(_read_msr(vcpu, it.msr)) for it in (PIN_BASED, PROCESSOR_BASED, VM_EXIT, VM_ENTRY)}
    if controls[PROCESSOR_BASED.field] & USE_SECONDARY:
        controls[SECONDARY.field] = SECONDARY.adjust(_read_msr(vcpu, SECONDARY.msr))
    return controls


def explain_failure(registers: tuple[int, ...]) -> str:
    """Say which VMX instruction failed, from L1's registers; the numbers are those of 31.4."""
    step = registers[RBP]
    name = INSTRUCTIONS[step] if step < len(INSTRUCTIONS) else "an instruction"
    field = f" of the field {registers[RDX]:#x}" if name == "VMWRITE" else ""
    return f"{name}{field} failed with VM-instruction error {registers[RCX]}"


def assemble_program(fields: int) -> Program:
    """Assemble L1's code for a VMCS of so many fields."""
    return assemble(
        PROGRAM,
        CR4_VMXE_BIT=CR4_VMXE_BIT,
        ARGUMENTS=ARGUMENTS,
        FIELDS=fields,
        FIELDS_OFFSET=FIELDS_OFFSET,
        VALUES_OFFSET=FIELDS_OFFSET + 8,
        VM_INSTRUCTION_ERROR=VM_INSTRUCTION_ERROR,
        EXIT_REASON=EXIT_REASON,
        EXIT_CPUID=EXIT_CPUID,
        GUEST_RIP=GUEST_RIP,
        END_PORT=END_PORT,
        **{name: step for step, name in enumerate(INSTRUCTIONS)},
    )


def _read_msr(vcpu: int, index: int) -> int:
    """Read an MSR as the guest would find it. Raises OSError when the guest has none of that number."""
    request = bytearray(MSR_ENTRY.pack(1, 0, index, 0, 0))
    if fcntl.ioctl(vcpu, KVM_GET_MSRS, request) != 1:
        raise OSError(errno.ENXIO, f"no MSR {index:#x}")
    value: int = MSR_ENTRY.unpack(request)[4]
    return value


def _write_msr(vcpu: int, index: int, value: int) -> None:
    if fcntl.ioctl(vcpu, KVM_SET_MSRS, bytearray(MSR_ENTRY.pack(1, 0, index, 0, value))) != 1:
        raise OSError(errno.ENXIO, f"no MSR {index:#x}")
