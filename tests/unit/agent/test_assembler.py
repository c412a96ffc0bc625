"""The assembler says the same as GNU as, for every form it has; and refuses what it does not have."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestctl.agent import proof
from nestctl.agent.assembler import FORMS, REGISTERS_32, REGISTERS_64, AssemblyError, assemble
from tests.needs import need_program

# Bases that need a SIB byte (rsp, r12), a displacement (rbp, r13), a REX prefix (r8 and up), and none of it (rdi).
BASES = ("rdi", "rsp", "rbp", "r8", "r12", "r13")
DISPLACEMENTS = ("", " + 1", " + 0x7f", " + 0x80", " + 0x5f8")
OPERANDS = {
    "r32": REGISTERS_32,
    "r64": REGISTERS_64,
    "cr": ("cr0", "cr3", "cr4"),
    "imm8": ("0", "3", "-128", "127"),
    "port8": ("0", "0xf4", "255"),
    "al": ("al",),
    "imm32": ("0", "0x1000", "0xc0000080", "-1"),
    "label": ("here",),
    **{
        kind: tuple(f"{size}[{base}{displacement}]" for base in BASES for displacement in DISPLACEMENTS)
        for kind, size in (("m", ""), ("m32", "dword ptr "), ("m64", "qword ptr "))
    },
}


def write_out(instruction: str) -> Iterator[str]:
    """Write a form out with each operand it can have; of several operands one changes at a time."""
    mnemonic, _, kinds = instruction.partition(" ")
    choices = [OPERANDS[kind] for kind in kinds.split(", ")] if kinds else []
    for place in range(max(1, len(choices))):
        for choice in choices[place] if choices else ("",):
            operands = [options[0] for options in choices]
            if operands:
                operands[place] = choice
            yield f"{mnemonic} {', '.join(operands)}".strip()


def assemble_with_gnu(text: str, bits: int, directory: Path) -> bytes:
    assembler, extractor = need_program("as", "binutils"), need_program("objcopy", "binutils")
    source, linked, code = directory / "code.s", directory / "code.o", directory / "code"
    source.write_text(f".intel_syntax noprefix\n.code{bits}\n{text.replace(';', '#')}\n")
    subprocess.run((assembler, "--64", "-o", linked, source), check=True)
    subprocess.run((extractor, "-O", "binary", "-j", ".text", linked, code), check=True)
    return code.read_bytes()


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_every_form_is_what_gnu_as_makes_of_it(bits: int, tmp_path: Path) -> None:
    lines = [line for form, _, modes in FORMS if bits in modes for line in write_out(form)]
    blocks = [f"here{number}: {line.replace('here', f'here{number}')}" for number, line in enumerate(lines)]
    ours = [assemble(block, bits=bits).code for block in blocks]
    # One run of GNU as for all of them; padding shows where a line is of another length.
    theirs = assemble_with_gnu("\n".join(f"{block}\n.balign 16" for block in blocks), bits, tmp_path)
    assert len(theirs) == 16 * len(blocks)
    different = [
        (line, code.hex(" "), theirs[16 * number : 16 * number + 15].hex(" "))
        for number, (line, code) in enumerate(zip(lines, ours, strict=True))
        if theirs[16 * number : 16 * number + len(code)] != code
        or theirs[16 * number + len(code)] not in (0x66, 0x90, 0x0F, 0x2E, 0x8D, 0x89, 0xEB)
    ]
    assert different == []


def test_labels_lead_both_ways_and_are_told(tmp_path: Path) -> None:
    text = "start: jz end ; forwards\n again: dec ecx\n jnz again\n jmp start\n end: hlt"
    program = assemble(text, bits=64)
    assert program.code == assemble_with_gnu(text, 64, tmp_path)
    assert program.labels == {"start": 0, "again": 2, "end": len(program.code) - 1}


def test_names_stand_for_numbers() -> None:
    assert assemble("mov ecx, EFER\nmov rax, qword ptr [rdi + OFFSET]", EFER=0xC0000080, OFFSET=0x70).code == (
        bytes.fromhex("b9 80 00 00 c0  48 8b 47 70")
    )


def test_the_micro_guest_is_what_its_comments_say() -> None:
    loop = assemble("again: dec ecx\n jnz again\n out 0xF4, al", bits=16)
    leaving = assemble("again: xor eax, eax\n cpuid\n dec esi\n jnz again\n out 0xF4, al", bits=16)
    assert (loop.code, leaving.code) == (proof.LOOP_CODE, proof.CPUID_CODE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mov eax", "no form for 'mov eax'"),
        ("mov eax, rbx", "no form for 'mov eax, rbx'"),
        ("fly eax", "no form for 'fly eax'"),
        ("cmp eax, 128", "no form for 'cmp eax, 128'"),
        ("mov eax, 0x100000000", "no form"),
        ("mov eax, UNKNOWN", "no form for 'mov eax, UNKNOWN'"),
        ("jmp nowhere", "no label 'nowhere'"),
        ("inc dword ptr [eax]", "no 64-bit register"),
        ("far: " + "hlt\n" * 127 + "jmp far", "129 bytes away"),
    ],
)
def test_what_is_no_instruction_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(AssemblyError, match=said):
        assemble(text)


def test_a_form_of_another_mode_is_refused() -> None:
    with pytest.raises(AssemblyError, match="16-bit mode"):
        assemble("mov rax, rbx", bits=16)


@given(st.text(alphabet="movadcrx[]+0123, :;ptrdwhl-\n"))
def test_any_text_is_assembled_or_refused(text: str) -> None:
    with contextlib.suppress(AssemblyError):
        assert isinstance(assemble(text).code, bytes)
