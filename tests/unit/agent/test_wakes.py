"""Two vCPUs that interrupt each other: the machine code, and what is made of what arrived."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from nestctl.agent import wakes
from nestctl.agent.flat_guest import CODE_ADDRESS
from nestctl.agent.native import NotMeasuredError

COUNT = "ds:0x2f00"
SEND = ["mov ecx,0x830", "mov eax,0x40"]
END_OF_INTERRUPT = ["mov ecx,0x80b", "xor eax,eax", "xor edx,edx", "wrmsr"]
TO_SECOND, TO_FIRST = [*SEND, "mov edx,0x1", "wrmsr"], [*SEND, "xor edx,edx", "wrmsr"]
# Where "cli" is in PING, which is loaded at CODE_ADDRESS.
BEHIND_HALT = hex(CODE_ADDRESS + wakes.PING.index(b"\xfb\xf4\xfa") + 2)


@pytest.mark.skipif(not shutil.which("objdump"), reason="objdump is not installed")
@pytest.mark.parametrize(
    ("code", "instructions"),
    [
        (wakes.PING, [*TO_SECOND, "sti", "hlt", "cli", "dec esi", "jne 0x0", "out 0xf4,al"]),
        (
            wakes.SEND,
            [
                f"mov edi,DWORD PTR {COUNT}",
                *TO_SECOND,
                "pause",
                f"cmp edi,DWORD PTR {COUNT}",
                "je 0x17",
                "dec esi",
                "jne 0x0",
                "out 0xf4,al",
            ],
        ),
        (wakes.HALT, ["sti", "hlt", "jmp 0x0"]),
        (wakes.SPIN, ["sti", "pause", "jmp 0x1"]),
        (wakes.ANSWER, [f"inc DWORD PTR {COUNT}", *END_OF_INTERRUPT, *TO_FIRST, "iret"]),
        (wakes.TAKE, [f"inc DWORD PTR {COUNT}", *END_OF_INTERRUPT, "iret"]),
        (wakes.WOKEN, [*END_OF_INTERRUPT, f"mov DWORD PTR [esp],{BEHIND_HALT}", "iret"]),
    ],
)
def test_machine_code_is_what_its_comments_say(code: bytes, instructions: list[str], tmp_path: Path) -> None:
    (tmp_path / "code").write_bytes(code)
    command = ("objdump", "-D", "-b", "binary", "-m", "i386", "-M", "intel", "--no-show-raw-insn")
    listing = subprocess.run((*command, tmp_path / "code"), check=True, capture_output=True, text=True).stdout
    lines = [line.split("\t")[1] for line in listing.splitlines() if "\t" in line]
    assert [" ".join(line.split()) for line in lines] == instructions


@dataclass
class Pair:
    """The first of two vCPUs: of the interrupts that it sends, so many more or less reach the other."""

    lost: int = 0
    halts: int = 0
    low: bytearray = field(default_factory=lambda: bytearray(0x4000))
    counters: dict[str, int] = field(default_factory=lambda: {"exits": 0, "halt_exits": 0})
    _count: int = 0

    def load(self, _code: bytes, *, esi: int, esp: int) -> None:
        assert esp in wakes.STACKS
        self._count = esi

    def run(self) -> None:
        (before,) = struct.unpack_from("=I", self.low, wakes.COUNT)
        struct.pack_into("=I", self.low, wakes.COUNT, (before + self._count - self.lost) % (1 << 32))
        self.counters = {"exits": self.counters["exits"] + 2 * self._count, "halt_exits": self.halts}

    def read_counters(self) -> dict[str, int]:
        return dict(self.counters)


def timed(pair: Pair, counter: str = "halt_exits") -> dict[str, Any]:
    return wakes.time_interrupts(cast(Any, pair), b"", counter)(100)


def test_what_has_arrived_and_halted_is_a_sample_also_when_the_count_wraps() -> None:
    pair = Pair(halts=100)
    struct.pack_into("=I", pair.low, wakes.COUNT, (1 << 32) - 3)
    record = timed(pair)
    assert (record["operations"], record["exits"]) == (100, 200)
    assert "void" not in record


def test_what_did_not_arrive_or_did_not_halt_makes_it_void() -> None:
    assert timed(Pair(lost=1, halts=100))["void"] == "99 of 100 interrupts have reached the other vCPU"
    assert timed(Pair(halts=3))["void"] == "KVM counted 3 'halt_exits' for 100 operations"
    assert "void" not in timed(Pair(halts=3), counter="")


def test_one_cpu_is_no_place_for_two_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0})
    with pytest.raises(NotMeasuredError, match="has one CPU"):
        wakes.measure_ipi(1, 1)
