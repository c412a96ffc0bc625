"""The fields of the micro-hypervisor's VMCS, by their encodings: what the CPU keeps of L2, of L1, and between them.

Tables B-n are those of appendix B in the Intel 64 and IA-32 Software Developer's Manual, volume 3; other numbers are
sections there. The fields of control bits are in vmx.py: what they may have is asked of the capability MSRs.
"""

from __future__ import annotations

from .micro_hypervisor import CODE_SELECTOR, L1_TABLES, L2_CODE, NESTED_TABLES, TASK_SELECTOR, l2_page_tables

# Access rights (25.4.1): the descriptor's bits, and bit 16 for a register that has none.
CODE_RIGHTS = 0xA09B  # present, code, executable and readable, long, 4 KiB units
TASK_RIGHTS = 0x008B  # present, a busy 64-bit task
UNUSABLE = 0x10000

EPT_POINTER_BITS = 6 | (4 - 1) << 3  # 25.6.11: the tables are write-back memory, and have four levels
NO_LINKED_VMCS = 0xFFFFFFFFFFFFFFFF  # 25.4.2

# Fields that L1's code uses itself.
VM_INSTRUCTION_ERROR = 0x4400  # table B-9; 25.9.5, numbers in 31.4
EXIT_REASON = 0x4402  # table B-9; 25.9.1
GUEST_RIP = 0x681E  # table B-14
HOST_RIP = 0x6C16  # table B-15


def render_segments() -> dict[int, int]:
    """Return L2's segments (25.4.1), of which 64-bit mode needs CS and TR."""
    return {
        # Selectors: table B-2.
        0x0800: 0,  # ES
        0x0802: CODE_SELECTOR,  # CS
        0x0804: 0,  # SS
        0x0806: 0,  # DS
        0x0808: 0,  # FS
        0x080A: 0,  # GS
        0x080C: 0,  # LDTR
        0x080E: TASK_SELECTOR,  # TR
        # Limits: table B-10.
        0x4800: 0,  # ES
        0x4802: 0xFFFFFFFF,  # CS
        0x4804: 0,  # SS
        0x4806: 0,  # DS
        0x4808: 0,  # FS
        0x480A: 0,  # GS
        0x480C: 0,  # LDTR
        0x480E: 0x67,  # TR: the length of a 64-bit task, less one
        0x4810: 0,  # GDTR
        0x4812: 0,  # IDTR
        # Access rights: table B-10.
        0x4814: UNUSABLE,  # ES
        0x4816: CODE_RIGHTS,  # CS
        0x4818: UNUSABLE,  # SS
        0x481A: UNUSABLE,  # DS
        0x481C: UNUSABLE,  # FS
        0x481E: UNUSABLE,  # GS
        0x4820: UNUSABLE,  # LDTR
        0x4822: TASK_RIGHTS,  # TR
        # Bases: table B-14.
        0x6806: 0,  # ES
        0x6808: 0,  # CS
        0x680A: 0,  # SS
        0x680C: 0,  # DS
        0x680E: 0,  # FS
        0x6810: 0,  # GS
        0x6812: 0,  # LDTR
        0x6814: 0,  # TR
        0x6816: 0,  # GDTR
        0x6818: 0,  # IDTR
    }


def render_guest(cr0: int, cr4: int, is_paging_nested: bool) -> dict[int, int]:
    """Return the rest of L2's state (25.4.1, 25.4.2): in 64-bit mode, at L2_CODE."""
    return {
        # Table B-6.
        0x2800: NO_LINKED_VMCS,  # VMCS link pointer
        0x2802: 0,  # IA32_DEBUGCTL
        # Table B-10.
        0x4824: 0,  # interruptibility: nothing is blocked
        0x4826: 0,  # activity: active
        0x482A: 0,  # IA32_SYSENTER_CS
        # Table B-14.
        0x6800: cr0,
        0x6802: l2_page_tables(is_paging_nested),  # CR3
        0x6804: cr4,
        0x681A: 0x400,  # DR7, as after reset (table 10-1)
        0x681C: 0,  # RSP: L2 has no stack
        GUEST_RIP: L2_CODE,
        0x6820: 0x2,  # RFLAGS: bit 1 is always 1
        0x6822: 0,  # pending debug exceptions
        0x6824: 0,  # IA32_SYSENTER_ESP
        0x6826: 0,  # IA32_SYSENTER_EIP
    }


def render_counts_and_masks(is_paging_nested: bool) -> dict[int, int]:
    """Return the controls that are no bits (25.6-25.8): nothing is masked, loaded, stored or injected."""
    fields = {
        # Table B-8.
        0x4004: 0,  # exception bitmap (25.6.3)
        0x4006: 0,  # page-fault error-code mask
        0x4008: 0,  # page-fault error-code match
        0x400A: 0,  # CR3-target count (25.6.7)
        0x400E: 0,  # VM-exit MSR-store count (25.7.2)
        0x4010: 0,  # VM-exit MSR-load count
        0x4014: 0,  # VM-entry MSR-load count (25.8.2)
        0x4016: 0,  # VM-entry interruption information (25.8.3)
        # Table B-12.
        0x6000: 0,  # CR0 guest/host mask (25.6.6)
        0x6002: 0,  # CR4 guest/host mask
        0x6004: 0,  # CR0 read shadow
        0x6006: 0,  # CR4 read shadow
    }
    if is_paging_nested:
        fields[0x201A] = NESTED_TABLES | EPT_POINTER_BITS  # EPT pointer: table B-4
    return fields


def render_host(cr0: int, cr4: int, rip: int) -> dict[int, int]:
    """Return what L1 finds after an exit of L2 (25.5). All else the CPU sets itself (28.5)."""
    return {
        # Selectors: table B-3. Neither CS nor TR may be 0 (27.2.3).
        0x0C00: 0,  # ES
        0x0C02: CODE_SELECTOR,  # CS
        0x0C04: 0,  # SS
        0x0C06: 0,  # DS
        0x0C08: 0,  # FS
        0x0C0A: 0,  # GS
        0x0C0C: TASK_SELECTOR,  # TR
        # Table B-11.
        0x4C00: 0,  # IA32_SYSENTER_CS
        # Table B-15.
        0x6C00: cr0,
        0x6C02: L1_TABLES,  # CR3
        0x6C04: cr4,
        0x6C06: 0,  # base of FS
        0x6C08: 0,  # base of GS
        0x6C0A: 0,  # base of TR
        0x6C0C: 0,  # base of GDTR
        0x6C0E: 0,  # base of IDTR
        0x6C10: 0,  # IA32_SYSENTER_ESP
        0x6C12: 0,  # IA32_SYSENTER_EIP
        0x6C14: 0,  # RSP: L1 has no stack
        HOST_RIP: rip,
    }
