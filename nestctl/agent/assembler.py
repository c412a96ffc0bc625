"""Assemble the few x86 instructions that nestctl's guests are made of, so that machine code can be read as text.

The syntax is Intel's, as GNU as reads it after `.intel_syntax noprefix`: `label:`, one instruction a line, `;` begins a
comment, memory is `dword ptr [register + displacement]`. A name in place of a number is one of the `names` passed in.
The second column of `FORMS` is the notation of the manuals (Intel SDM volume 2, 3.1.1.1; AMD APM volume 3, 1.2).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Mapping, NamedTuple, Sequence

# Instruction and operands; encoding; the processor modes it has that encoding in (16, 32, 64 bits).
# 'm' is memory whose size the instruction implies, with a 64-bit register as its base; 'cb' the distance of a jump,
# counted from the next instruction; 'port8' an imm8 without a sign.
EVERY, OLD, LONG = (16, 32, 64), (16, 32), (64,)
FORMS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("mov r32, r32", "89 /r", EVERY),
    ("mov r64, r64", "REX.W 89 /r", LONG),
    ("mov r32, imm32", "B8+rd id", EVERY),
    ("mov r32, m32", "8B /r", LONG),
    ("mov r64, m64", "REX.W 8B /r", LONG),
    ("mov m32, r32", "89 /r", LONG),
    ("mov m64, r64", "REX.W 89 /r", LONG),
    ("mov r64, cr", "0F 20 /r", LONG),
    ("mov cr, r64", "0F 22 /r", LONG),
    ("xor r32, r32", "31 /r", EVERY),
    ("add r64, imm8", "REX.W 83 /0 ib", LONG),
    ("add m64, imm8", "REX.W 83 /0 ib", LONG),
    ("cmp r32, imm8", "83 /7 ib", EVERY),
    ("cmp r64, imm8", "REX.W 83 /7 ib", LONG),
    ("bts r32, imm8", "0F BA /5 ib", EVERY),
    ("bts r64, imm8", "REX.W 0F BA /5 ib", LONG),
    ("inc r32", "40+rd", OLD),
    ("inc r32", "FF /0", LONG),
    ("inc m32", "FF /0", LONG),
    ("dec r32", "48+rd", OLD),
    ("dec r32", "FF /1", LONG),
    ("jmp label", "EB cb", EVERY),
    ("jz label", "74 cb", EVERY),
    ("jnz label", "75 cb", EVERY),
    ("jbe label", "76 cb", EVERY),
    ("hlt", "F4", EVERY),
    ("out port8, al", "E6 ib", EVERY),
    ("ud2", "0F 0B", EVERY),
    ("cpuid", "0F A2", EVERY),
    ("rdmsr", "0F 32", EVERY),
    ("wrmsr", "0F 30", EVERY),
    # AMD SVM (APM volume 3, chapter 4). VMRUN takes the address of the VMCB in RAX.
    ("vmrun", "0F 01 D8", EVERY),
    ("vmmcall", "0F 01 D9", EVERY),
    ("stgi", "0F 01 DC", EVERY),
    ("clgi", "0F 01 DD", EVERY),
    # Intel VMX (SDM volume 3, chapter 31). VMREAD and VMWRITE have no other operand size in 64-bit mode.
    ("vmxon m", "F3 0F C7 /6", LONG),
    ("vmclear m", "66 0F C7 /6", LONG),
    ("vmptrld m", "0F C7 /6", LONG),
    ("vmread r64, r64", "0F 78 /r", LONG),
    ("vmwrite r64, r64", "0F 79 /r*", LONG),  # the one whose first operand is in ModRM.reg
    ("vmcall", "0F 01 C1", EVERY),
    ("vmlaunch", "0F 01 C2", EVERY),
    ("vmresume", "0F 01 C3", EVERY),
)

REGISTERS_32 = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
REGISTERS_64 = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
CONTROL_REGISTERS = {"cr0": 0, "cr2": 2, "cr3": 3, "cr4": 4}
POINTER_SIZES = {"": "m", "dword ptr": "m32", "qword ptr": "m64"}

_LABEL = re.compile(r"(\w+):")
_MEMORY = re.compile(r"(dword ptr|qword ptr|)\s*\[\s*(\w+)\s*(?:\+\s*(\w+)\s*)?\]")


class AssemblyError(Exception):
    """The text is no program; the message has the line."""


class Program(NamedTuple):
    """Machine code, and where in it each label is (counted from its beginning)."""

    code: bytes
    labels: Mapping[str, int]


class _Operand(NamedTuple):
    kind: str  # as in FORMS
    number: int = 0  # the register's, or that of memory's base
    value: int = 0  # an immediate, or a displacement
    label: str = ""


class _Form(NamedTuple):
    kinds: tuple[str, ...]
    encoding: tuple[str, ...]
    modes: tuple[int, ...]


def assemble(text: str, *, bits: int = 64, **names: int) -> Program:
    """Assemble `text` for a processor in a mode of `bits`. Raises `AssemblyError`. Takes some 10 µs a line."""
    code = bytearray()
    labels: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []
    for line in text.splitlines():
        statement = line.partition(";")[0].strip()
        label = _LABEL.match(statement)
        if label:
            labels[label.group(1)] = len(code)
            statement = statement[label.end() :].strip()
        if statement:
            encoded, target = _encode(statement, bits, names)
            code += encoded
            if target:
                jumps.append((len(code), target))
    for end, target in jumps:
        if target not in labels:
            raise AssemblyError(f"There is no label '{target}'.")
        distance = labels[target] - end
        if not -128 <= distance <= 127:
            raise AssemblyError(f"The label '{target}' is {distance} bytes away, too far for a short jump.")
        code[end - 1] = distance & 0xFF
    return Program(bytes(code), labels)


def _encode(statement: str, bits: int, names: Mapping[str, int]) -> tuple[bytes, str]:
    """Encode one instruction; also return the label that its last byte has to lead to, if it jumps."""
    mnemonic, _, rest = statement.partition(" ")
    operands = [_parse_operand(word.strip(), names) for word in rest.split(",")] if rest.strip() else []
    for form in _forms().get(mnemonic, ()):
        if bits in form.modes and _fits(form.kinds, operands):
            return _emit(form, operands, bits), next((it.label for it in operands if it.label), "")
    raise AssemblyError(f"There is no form for '{statement}' in {bits}-bit mode.")


@lru_cache(maxsize=None)
def _forms() -> Mapping[str, Sequence[_Form]]:
    forms: dict[str, list[_Form]] = {}
    for instruction, encoding, modes in FORMS:
        mnemonic, _, operands = instruction.partition(" ")
        kinds = tuple(operands.split(", ")) if operands else ()
        forms.setdefault(mnemonic, []).append(_Form(kinds, tuple(encoding.split()), modes))
    return forms


def _parse_operand(word: str, names: Mapping[str, int]) -> _Operand:
    if word in REGISTERS_32:
        return _Operand("r32", REGISTERS_32.index(word))
    if word in REGISTERS_64:
        return _Operand("r64", REGISTERS_64.index(word))
    if word in CONTROL_REGISTERS:
        return _Operand("cr", CONTROL_REGISTERS[word])
    if word == "al":
        return _Operand("al")
    memory = _MEMORY.fullmatch(word)
    if memory:
        size, base, displacement = memory.groups()
        if base not in REGISTERS_64:
            raise AssemblyError(f"The base in '{word}' is no 64-bit register.")
        value = _number(displacement, names) if displacement else 0
        return _Operand(POINTER_SIZES[size], REGISTERS_64.index(base), value or 0)
    number = _number(word, names)
    return _Operand("label", label=word) if number is None else _Operand("imm", value=number)


def _number(word: str, names: Mapping[str, int]) -> int | None:
    if word in names:
        return names[word]
    try:
        return int(word, 0)
    except ValueError:
        return None


def _fits(kinds: Sequence[str], operands: Sequence[_Operand]) -> bool:
    return len(kinds) == len(operands) and all(
        operand.kind == kind
        or (kind == "imm8" and operand.kind == "imm" and -128 <= operand.value <= 127)
        or (kind == "port8" and operand.kind == "imm" and 0 <= operand.value <= 255)
        or (kind == "imm32" and operand.kind == "imm" and -(1 << 31) <= operand.value < 1 << 32)
        for kind, operand in zip(kinds, operands)
    )


def _emit(form: _Form, operands: Sequence[_Operand], bits: int) -> bytes:
    """Follow the manual's notation: prefixes, opcode, ModRM with SIB and displacement, immediate."""
    rex = 0x48 if "REX.W" in form.encoding else 0
    reg, rm = _place(form, operands)
    # REX.R and REX.B are the fourth bits of the two registers (SDM volume 2, 2.2.1.2).
    rex |= (0x40 | (reg >> 3) << 2 | rm.number >> 3) if (reg | rm.number) > 7 else 0
    prefixes, opcode, tail = bytearray(), bytearray(), bytearray()
    if bits == 16 and "r32" in form.kinds:
        prefixes.append(0x66)  # a register of the other size (SDM volume 2, 2.1.1)
    for part in form.encoding:
        if part.startswith("/"):
            tail += _modrm(reg, rm)
        elif part in ("ib", "id"):
            value = next(operand.value for operand in operands if operand.kind == "imm")
            size = 1 if part == "ib" else 4
            tail += (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        elif part == "cb":
            tail.append(0)
        elif part.endswith("+rd"):
            opcode.append(int(part[:2], 16) + (rm.number & 7))
        elif part in ("66", "F3"):
            prefixes.append(int(part, 16))
        elif part != "REX.W":
            opcode.append(int(part, 16))
    return bytes(prefixes) + (bytes([rex]) if rex else b"") + bytes(opcode) + bytes(tail)


def _place(form: _Form, operands: Sequence[_Operand]) -> tuple[int, _Operand]:
    """Say what goes to ModRM.reg and to ModRM.rm (or to the opcode's own register)."""
    places = [operand for operand in operands if operand.kind not in ("imm", "label")]
    if len(places) < 2:
        digit = next((int(part[1]) for part in form.encoding if re.fullmatch(r"/\d", part)), 0)
        return digit, places[0] if places else _Operand("r32")
    # Memory can only be ModRM.rm, and a control register only ModRM.reg; of two registers the destination is rm.
    first, second = places
    if second.kind.startswith("m") or first.kind == "cr" or "/r*" in form.encoding:
        return first.number, second
    return second.number, first


def _modrm(reg: int, rm: _Operand) -> bytes:
    """Encode ModRM, and for memory SIB and displacement (SDM volume 2, table 2-2)."""
    low = (reg & 7) << 3 | rm.number & 7
    if not rm.kind.startswith("m"):
        return bytes([0xC0 | low])
    sib = b"\x24" if rm.number & 7 == 4 else b""  # rsp and r12 as a base need one: no index
    if rm.value == 0 and rm.number & 7 != 5:  # without a displacement, rbp and r13 would mean something else
        return bytes([low]) + sib
    if -128 <= rm.value <= 127:
        return bytes([0x40 | low]) + sib + (rm.value & 0xFF).to_bytes(1, "little")
    return bytes([0x80 | low]) + sib + (rm.value & 0xFFFFFFFF).to_bytes(4, "little")
