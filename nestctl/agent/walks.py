"""Loads that wait for the load before: what memory costs, and what the walk through page tables adds.

Under a hypervisor a walk goes through two sets of page tables, each step of the guest's through all of the host's. The
same chase in 4 KiB and in 2 MiB pages, from what an L1 cache holds to what no TLB reaches, shows it.
"""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Callable

from .disturbance import NS_PER_S
from .memory import HUGE_BYTES, Memory
from .native import CHASE, LINE_BYTES, LINK_CYCLE, NotMeasuredError, Routine
from .sampling import Outcome, clock_ns, take_samples

# In the caches of the first and the second level of today's processors, then past their TLBs of the first level (64
# entries) and of the second (2048) for one page size and for the other.
WALK_BYTES = {
    "32k": 32 << 10,
    "256k": 256 << 10,
    "2m": 2 << 20,
    "8m": 8 << 20,
    "64m": 64 << 20,
    "256m": 256 << 20,
    "1g": 1 << 30,
}
MEMINFO = "/proc/meminfo"
RESERVE_BYTES = 128 << 20  # what is left to everything else on the machine
TRIAL_BYTES = 8 << 20  # prepared first, to see how long all of it would take
LONGEST_S = 20.0  # a first touch takes a millisecond, two levels down under emulation


def chase_of(size: int, *, is_huge: bool) -> Callable[[int, int], Outcome]:
    """Return what times loads in so much memory, only where its pages are those that were asked for."""

    def measure(samples: int, target_ns: int) -> Outcome:
        return measure_chase(size, samples, target_ns, is_huge=is_huge, is_strict=True)

    return measure


def measure_chase(size: int, samples: int, target_ns: int, *, is_huge: bool, is_strict: bool = False) -> Outcome:
    """Time loads of which each needs the one before, through all lines of so much memory; operations are loads."""
    expect_memory(size, Path(MEMINFO).read_text(encoding="ascii", errors="replace"))
    chase = Routine(CHASE, 2)
    with closing(Memory(max(size, HUGE_BYTES) if is_huge else size, is_huge=is_huge)) as buffer:
        _link(buffer.start, size)
        if is_strict:
            buffer.expect_pages()
        pages = buffer.describe_pages()
        at = buffer.start

        def follow(count: int) -> None:
            nonlocal at
            at = chase(at, count)

        taken = take_samples(follow, samples, target_ns, first_count=1 << 10)
    how = f"machine code follows a scattered cycle through all lines of {_describe(size)}, {pages}: mov rax, [rax]"
    return {"samples": taken, "how": how}


def _link(start: int, size: int) -> None:
    """Make the cycle, which touches all of the memory. Raises `NotMeasuredError` when it would take too long."""
    link = Routine(LINK_CYCLE, 2)
    if size > TRIAL_BYTES:
        begin_ns = clock_ns()
        link(start, TRIAL_BYTES // LINE_BYTES)
        expected_s = (clock_ns() - begin_ns) / NS_PER_S * size / TRIAL_BYTES
        if expected_s > LONGEST_S:
            raise NotMeasuredError(
                f"preparing {_describe(size)} would take {expected_s:.0f} s here, more than {LONGEST_S:.0f}"
            )
    link(start, size // LINE_BYTES)


def expect_memory(size: int, meminfo: str) -> None:
    """Raise `NotMeasuredError` unless so much is there (MemAvailable, proc_meminfo(5)), and some for the others."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo, re.MULTILINE)
    if found and int(found.group(1)) << 10 < size + RESERVE_BYTES:
        raise NotMeasuredError(
            f"{_describe(size)} are wanted, {RESERVE_BYTES >> 20} MiB besides, and {int(found.group(1)) >> 10} MiB of "
            "memory are available"
        )


def _describe(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
