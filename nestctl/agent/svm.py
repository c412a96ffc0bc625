"""The micro-hypervisor with AMD's SVM: one VMCB, VMRUN in a loop.

Sections are those of the AMD64 Architecture Programmer's Manual, volume 2; the VMCB's layout is its appendix B.
"""

from __future__ import annotations

import struct

from .assembler import Program, assemble
from .kvm import END_PORT, MicroGuest, SupportedCpuid
from .micro_hypervisor import (
    CODE_SELECTOR,
    CONTROL_BLOCK,
    CR0,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    HOST_AREA,
    L2_CODE,
    L2_MEMORY,
    L2_PAGES,
    NESTED_TABLES,
    MicroHypervisor,
    Vendor,
    install,
    l2_page_tables,
    render_page_tables,
)

MSR_EFER = 0xC0000080  # 3.1.7
EFER_SVME_BIT = 12  # 15.4, "Enabling SVM"
MSR_VM_HSAVE_PA = 0xC0010117  # 15.30.4

# The VMCB's control area (table B-1).
INTERCEPT_MISC = 0x00C  # 15.9: one bit for each instruction or event that has to leave
INTERCEPT_CPUID, INTERCEPT_HLT, INTERCEPT_SHUTDOWN = 1 << 18, 1 << 24, 1 << 31
INTERCEPT_SVM = 0x010
INTERCEPT_VMRUN, INTERCEPT_VMMCALL = 1 << 0, 1 << 1  # VMRUN refuses a guest without the first (15.5.1)
GUEST_ASID = 0x058  # 15.16: 0 is the host's own
EXIT_CODE = 0x070  # 15.6
NESTED_CONTROL = 0x090  # 15.25.3: bit 0 is NP_ENABLE
NESTED_CR3 = 0x0B0  # 15.25.4

# Its state save area (table B-2): the segments, then what is 8 bytes.
SEGMENT = struct.Struct("<HHIQ")  # selector, attributes, limit, base
ES, CS, SS, DS = 0x400, 0x410, 0x420, 0x430
EFER, CR4, CR3, CR0_FIELD, DR7, DR6 = 0x4D0, 0x548, 0x550, 0x558, 0x560, 0x568
RFLAGS, GUEST_RIP, G_PAT = 0x570, 0x578, 0x668

# Segment attributes: bits 0-7 are the descriptor's 40-47, bits 8-11 its 52-55 (15.5.1; 4.8.1 for the bits).
CODE_ATTRIBUTES = 0xA9B  # present, code, executable and readable, long, 4 KiB units
DATA_ATTRIBUTES = 0xC93  # present, data, writable, 4 KiB units
PAT_AT_RESET = 0x0007040600070406  # 7.8.2

EXIT_CPUID = 0x72
EXIT_NAMES = {  # appendix C
    0x07F: "SHUTDOWN, a triple fault",
    0x072: "CPUID",
    0x078: "HLT",
    0x081: "VMMCALL",
    0x400: "NPF, a nested page fault",
    0xFFFFFFFFFFFFFFFF: "INVALID, VMRUN refused the guest's state",
}

CPUID_LEAF, CPUID_NPT_BIT = 0x8000000A, 0  # EDX: 15.25.1; volume 3, E.4.9

PROGRAM = """
start:  mov ecx, MSR_EFER
        rdmsr
        bts eax, EFER_SVME_BIT
        wrmsr                   ; from here on the CPU has VMRUN
        mov ecx, MSR_VM_HSAVE_PA
        mov eax, HOST_AREA      ; where VMRUN keeps L1's state
        xor edx, edx
        wrmsr
resume: mov eax, CONTROL_BLOCK  ; rax, kept by the CPU: the VMCB
        xor ebx, ebx            ; exits
again:  vmrun                   ; L2 runs; behind it L1 goes on
        mov rcx, qword ptr [rax + EXIT_CODE]
        cmp rcx, EXIT_CPUID
        jnz stop
        add qword ptr [rax + GUEST_RIP], 2  ; CPUID has two bytes
        inc ebx
        dec esi                 ; exits left
        jnz again
stop:   out END_PORT, al
"""


def install_svm(guest: MicroGuest, cpuid: SupportedCpuid) -> MicroHypervisor:
    """Prepare `guest` as an SVM hypervisor; with nested paging where KVM offers that to guests."""
    is_paging_nested = cpuid.has_bit(CPUID_LEAF, "edx", CPUID_NPT_BIT)
    vmcb = render_vmcb(is_paging_nested)
    guest.memory[CONTROL_BLOCK : CONTROL_BLOCK + len(vmcb)] = vmcb
    tables = render_page_tables(NESTED_TABLES, target=L2_MEMORY, pages=L2_PAGES)
    guest.memory[NESTED_TABLES : NESTED_TABLES + len(tables)] = tables
    vendor = Vendor(
        feature="svm",
        program=assemble_program(),
        cpuid_exit_code=EXIT_CPUID,
        exit_names=EXIT_NAMES,
        explain_failure=lambda registers: "it ended where it has no end",
        is_paging_nested=is_paging_nested,
    )
    return install(guest, vendor)


def assemble_program() -> Program:
    """Assemble L1: it enters L2 until ESI exits are done, or one was not CPUID's, and leaves by a write to END_PORT.

    Then EBX has the number of exits, and RCX the code of the last.
    """
    return assemble(
        PROGRAM,
        MSR_EFER=MSR_EFER,
        EFER_SVME_BIT=EFER_SVME_BIT,
        MSR_VM_HSAVE_PA=MSR_VM_HSAVE_PA,
        HOST_AREA=HOST_AREA,
        CONTROL_BLOCK=CONTROL_BLOCK,
        EXIT_CODE=EXIT_CODE,
        EXIT_CPUID=EXIT_CPUID,
        GUEST_RIP=GUEST_RIP,
        END_PORT=END_PORT,
    )


def render_vmcb(is_paging_nested: bool) -> bytes:
    """Render L2 as VMRUN reads it: in 64-bit mode at L2_CODE. What is not set here is zero."""
    vmcb = bytearray(0x1000)
    struct.pack_into("<I", vmcb, INTERCEPT_MISC, INTERCEPT_CPUID | INTERCEPT_HLT | INTERCEPT_SHUTDOWN)
    struct.pack_into("<I", vmcb, INTERCEPT_SVM, INTERCEPT_VMRUN | INTERCEPT_VMMCALL)
    struct.pack_into("<I", vmcb, GUEST_ASID, 1)
    SEGMENT.pack_into(vmcb, CS, CODE_SELECTOR, CODE_ATTRIBUTES, 0xFFFFFFFF, 0)
    for segment in (ES, SS, DS):
        SEGMENT.pack_into(vmcb, segment, 0, DATA_ATTRIBUTES, 0xFFFFFFFF, 0)
    values = {
        NESTED_CONTROL: int(is_paging_nested),
        NESTED_CR3: NESTED_TABLES,
        EFER: EFER_LME | EFER_LMA | 1 << EFER_SVME_BIT,  # VMRUN refuses a guest without SVME (15.5.1)
        CR0_FIELD: CR0,
        CR3: l2_page_tables(is_paging_nested),
        CR4: CR4_PAE,
        DR6: 0xFFFF0FF0,  # as after reset: 14.1.3
        DR7: 0x400,
        RFLAGS: 0x2,
        GUEST_RIP: L2_CODE,
        G_PAT: PAT_AT_RESET,
    }
    for offset, value in values.items():
        struct.pack_into("<Q", vmcb, offset, value)
    return bytes(vmcb)
