"""The micro-hypervisor: what is put into memory, and what is made of what comes back. tests/nested runs it for real."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from nestctl.agent import kvm, micro_hypervisor, nested, proof, svm, vmcs, vmx
from nestctl.agent.assembler import Program, assemble
from nestctl.agent.micro_hypervisor import (
    CR0,
    L1_CODE,
    L1_TABLES,
    L2_COUNT,
    L2_MEMORY,
    L2_PAGES,
    MEMORY_SIZE,
    NESTED_TABLES,
    PAGE,
    RBX,
    RCX,
    MicroHypervisor,
    ProofFailed,
    Vendor,
    render_page_tables,
)
from tests.unit.agent.test_assembler import assemble_with_gnu

NAMES = {**vars(micro_hypervisor), "FIELDS": 80, "VALUES_OFFSET": vmx.FIELDS_OFFSET + 8}
NAMES.update({name: step for step, name in enumerate(vmx.INSTRUCTIONS)})


def walk(memory: bytes, root: int, address: int) -> int:
    """Translate as a CPU does: 9 bits of the address index each level's table (SDM volume 3, 4.5.4)."""
    at = root
    for shift in (39, 30, 21, 12):
        (entry,) = struct.unpack_from("<Q", memory, at + 8 * (address >> shift & 0x1FF))
        assert entry & 1, f"nothing is mapped at {address:#x}"
        at = entry & ~0xFFF
    return at | address & 0xFFF


def memory_with(place: int, tables: bytes) -> bytes:
    return bytes(place) + tables + bytes(MEMORY_SIZE)


def test_page_tables_lead_where_they_should_and_nowhere_else() -> None:
    nested_tables = memory_with(NESTED_TABLES, render_page_tables(NESTED_TABLES, target=L2_MEMORY, pages=L2_PAGES))
    assert walk(nested_tables, NESTED_TABLES, L2_COUNT + 4) == L2_MEMORY + L2_COUNT + 4
    with pytest.raises(AssertionError, match="nothing is mapped"):
        walk(nested_tables, NESTED_TABLES, L2_PAGES * PAGE)
    own = memory_with(L1_TABLES, render_page_tables(L1_TABLES, target=0, pages=MEMORY_SIZE // PAGE))
    assert walk(own, L1_TABLES, MEMORY_SIZE - 8) == MEMORY_SIZE - 8


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (svm.PROGRAM, svm.assemble_program()),
        (vmx.PROGRAM, vmx.assemble_program(80)),
        (micro_hypervisor.L2_PROGRAM, assemble(micro_hypervisor.L2_PROGRAM)),
    ],
    ids=["svm", "vmx", "l2"],
)
def test_the_programs_are_what_gnu_as_makes_of_them(text: str, program: Program, tmp_path: Path) -> None:
    names = {**NAMES, **vars(svm if text is svm.PROGRAM else vmx)}
    plain = "\n".join(line.partition(";")[0] for line in text.splitlines())
    numbered = re.sub(r"\b[A-Z][A-Z0-9_]+\b", lambda found: str(names[found[0]]), plain)
    assert program.code == assemble_with_gnu(numbered, 64, tmp_path)


@pytest.mark.parametrize("is_paging_nested", [True, False])
def test_the_vmcb_has_its_fields_where_the_manual_says(is_paging_nested: bool) -> None:
    vmcb = svm.render_vmcb(is_paging_nested)
    assert len(vmcb) == PAGE
    assert struct.unpack_from("<II", vmcb, 0x00C) == (0x81040000, 0x3)
    assert struct.unpack_from("<I", vmcb, 0x058) == (1,)
    assert struct.unpack_from("<Q", vmcb, 0x090) == (int(is_paging_nested),)
    assert struct.unpack_from("<Q", vmcb, 0x0B0) == (NESTED_TABLES,)
    assert struct.unpack_from("<HHIQ", vmcb, 0x410) == (0x08, 0xA9B, 0xFFFFFFFF, 0)
    assert struct.unpack_from("<Q", vmcb, 0x4D0) == (0x1500,)
    cr3 = 0x3000 if is_paging_nested else 0x13000
    assert struct.unpack_from("<QQQ", vmcb, 0x548) == (0x20, cr3, CR0)
    assert struct.unpack_from("<QQ", vmcb, 0x570) == (0x2, 0x1000)


def test_controls_take_what_is_demanded_and_leave_what_is_forbidden() -> None:
    control = vmx.Control(field=0x4000, msr=0x481, wanted=0b0110)
    assert control.adjust(capability=(0b1011 << 32) | 0b1000) == 0b1010


def test_the_vmcs_has_every_field_once_and_paging_only_where_there_is_some() -> None:
    guest = [vmcs.render_segments(), vmcs.render_guest(CR0, 0x2020, is_paging_nested=True)]
    host, controls = vmcs.render_host(CR0, 0x2020, rip=L1_CODE), vmcs.render_counts_and_masks(is_paging_nested=True)
    # Bits 11:10 of an encoding are 3 for a field of the host, 2 of the guest, 0 a control (SDM volume 3, 25.11.2).
    for kind, groups in ((3, [host]), (2, guest), (0, [controls])):
        assert {encoding >> 10 & 3 for fields in groups for encoding in fields} == {kind}
    assert not set(guest[0]) & set(guest[1])
    assert controls[0x201A] == NESTED_TABLES | 0x1E
    assert 0x201A not in vmcs.render_counts_and_masks(is_paging_nested=False)
    assert vmcs.render_guest(CR0, 0x2020, is_paging_nested=False)[0x6802] == L2_MEMORY + 0x3000


@dataclass
class Returning:
    """A guest that comes back with these registers, having counted so often in L2's memory."""

    registers: dict[int, int]
    counted: int = 0
    exit_reason: int = kvm.KVM_EXIT_IO
    has_ended: bool = True
    memory: bytearray = field(default_factory=lambda: bytearray(MEMORY_SIZE))
    entered: list[dict[int, int]] = field(default_factory=list)

    def enter(self, registers: dict[int, int]) -> int:
        self.entered.append(registers)
        (before,) = struct.unpack_from("=I", self.memory, L2_MEMORY + L2_COUNT)
        struct.pack_into("=I", self.memory, L2_MEMORY + L2_COUNT, before + self.counted)
        return 500

    def read_registers(self) -> list[int]:
        return [self.registers.get(place, 0) for place in range(18)]


STOP = L1_CODE + svm.assemble_program().labels["stop"]


def hypervisor(guest: Returning) -> MicroHypervisor:
    vendor = Vendor(
        feature="svm",
        program=svm.assemble_program(),
        cpuid_exit_code=svm.EXIT_CPUID,
        exit_names=svm.EXIT_NAMES,
        explain_failure=lambda registers: f"at {registers[kvm.RIP]:#x}",
        is_paging_nested=True,
    )
    return MicroHypervisor(cast(Any, guest), vendor)


def test_a_run_that_is_as_it_has_to_be_is_a_sample_and_the_next_one_resumes() -> None:
    guest = Returning({kvm.RIP: STOP, RBX: 7, RCX: 0x72}, counted=7)
    run = hypervisor(guest).run
    assert [run(7), run(7)] == [kvm.Sample(7, 500)] * 2
    labels = svm.assemble_program().labels
    assert [entered[kvm.RIP] - L1_CODE for entered in guest.entered] == [labels["start"], labels["resume"]]


@pytest.mark.parametrize(
    ("guest", "said", "exit_code"),
    [
        (Returning({}, exit_reason=8, has_ended=False), r"triple fault \(KVM_EXIT_SHUTDOWN\)", None),
        (Returning({}, exit_reason=2, has_ended=False), "KVM exit reason 2", None),
        (Returning({kvm.RIP: L1_CODE}), "stopped: at 0x1000", None),
        (Returning({kvm.RIP: STOP, RCX: 0x400}), r"0x400 \(NPF, a nested page fault\) after 0 exits", 0x400),
        (Returning({kvm.RIP: STOP, RBX: 3, RCX: 0x40}, counted=4), r"code 0x40 after 3 exits", 0x40),
        (
            Returning({kvm.RIP: STOP, RBX: 7, RCX: 0x72}, counted=6),
            "counted 7 exits of its guest, the guest itself 6",
            114,
        ),
        (Returning({kvm.RIP: STOP, RBX: 6, RCX: 0x72}, counted=6), "not 7", 114),
    ],
)
def test_what_is_not_as_it_has_to_be_is_no_proof(guest: Returning, said: str, exit_code: int | None) -> None:
    with pytest.raises(ProofFailed, match=said) as failed:
        hypervisor(guest).run(7)
    assert failed.value.exit_code == exit_code


def test_a_vmx_instruction_that_failed_is_named_with_its_error() -> None:
    registers = [0] * 18
    registers[micro_hypervisor.RBP], registers[micro_hypervisor.RDX] = vmx.INSTRUCTIONS.index("VMWRITE"), 0x401E
    registers[RCX] = 12
    assert vmx.explain_failure(tuple(registers)) == "VMWRITE of the field 0x401e failed with VM-instruction error 12"


def test_passive_does_not_try() -> None:
    assert nested.read_fact(passive=True) == {"unknown": proof.NOT_PROVED}


def test_on_this_machine_it_works_or_says_why_it_was_not_tried() -> None:
    fact = nested.read_fact()
    if "value" in fact:
        assert fact["value"]["failure"] == ""
        assert fact["value"]["exits_of_all_runs"] > 100
    else:
        assert fact["unknown"]
