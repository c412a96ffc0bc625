"""Machine code called from Python: what is measured is the processor, not the speed of the interpreter.

The same bytes run at every level, so two levels never differ by a library that chose other instructions.
"""

from __future__ import annotations

import ctypes
import mmap
import platform

# System V calling convention: arguments in rdi, rsi, rdx; the result in rax; every register used here is the callee's.
COUNT_DOWN = bytes.fromhex(
    "89f9"  # mov ecx, edi      iterations
    "ffc9"  # dec ecx
    "75fc"  # jnz -4
    "c3"  # ret
)
COPY = bytes.fromhex(
    "0f1006 0f104e10 0f105620 0f105e30"  # movups xmm0..xmm3, [rsi + 0, 16, 32, 48]
    "0f1107 0f114f10 0f115720 0f115f30"  # movups [rdi + 0, 16, 32, 48], xmm0..xmm3
    "4883c640 4883c740"  # add rsi, 64; add rdi, 64
    "48ffca"  # dec rdx           64-byte lines
    "75d5"  # jnz -43
    "c3"  # ret
)
# Line i points to line (1664525 i + 1013904223) mod n. With n a power of two this visits every line once before it
# comes back to line 0 (Hull and Dobell 1962; the constants are those of Numerical Recipes, section 7.1).
LINK_CYCLE = bytes.fromhex(
    "31c0"  # xor eax, eax      i = 0
    "4c8d46ff"  # lea r8, [rsi - 1] mask = n - 1
    "4889c1"  # mov rcx, rax
    "48c1e106"  # shl rcx, 6
    "4801f9"  # add rcx, rdi      address of line i
    "4869c00d661900"  # imul rax, rax, 1664525
    "48055ff36e3c"  # add rax, 1013904223
    "4c21c0"  # and rax, r8
    "4889c2"  # mov rdx, rax
    "48c1e206"  # shl rdx, 6
    "4801fa"  # add rdx, rdi      address of the next line
    "488911"  # mov [rcx], rdx
    "4885c0"  # test rax, rax
    "75d4"  # jnz -44
    "c3"  # ret
)
CHASE = bytes.fromhex(
    "4889f8"  # mov rax, rdi      first line
    "488b00"  # mov rax, [rax]
    "48ffce"  # dec rsi           loads
    "75f8"  # jnz -8
    "c3"  # ret
)
LINE_BYTES = 64


class NotMeasuredError(Exception):
    """A workload cannot run here; the text says why."""


class Routine:
    """Machine code as something to call; lives as long as the object.

    Raises `NotMeasuredError` on another processor architecture, and where memory may not be made executable.
    """

    def __init__(self, code: bytes, arguments: int) -> None:
        if platform.machine() != "x86_64":
            raise NotMeasuredError("the machine code is for x86_64, this machine is " + platform.machine())
        try:
            self._memory = mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        except OSError as error:
            raise NotMeasuredError(f"memory cannot be made executable here: {error.strerror}") from error
        self._memory.write(code)
        self._call = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * arguments)(address_of(self._memory))

    def __call__(self, *arguments: int) -> int:
        result: int = self._call(*arguments)
        return result


def address_of(memory: mmap.mmap) -> int:
    """Where a mapping begins in this process."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
