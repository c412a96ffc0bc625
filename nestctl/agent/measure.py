"""Measure this machine: short workloads whose operations are counted and timed, printed as one JSON document.

Every time is in nanoseconds of CLOCK_MONOTONIC_RAW, which nothing slews. A workload first doubles its count until it
takes an eighth of the time asked for (which also warms it up), then takes its samples with the count that fills the
time. What cannot be measured is said with its reason.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import mmap
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

from .disturbance import difference, read_disturbance
from .fact import NotFoundOut
from .fingerprint import read_fingerprint, read_kvm_backend
from .kvm import CPUID_CODE, LOOP_CODE, open_device, open_micro_guest
from .native import CHASE, COPY, COUNT_DOWN, LINE_BYTES, LINK_CYCLE, NotMeasuredError, Routine, address_of

Outcome = Dict[str, Any]
Run = Callable[[int], Any]
Measure = Callable[[int, int], Outcome]

MEMORY_BYTES = 64 << 20
DISK_DIRECTORY = "/var/tmp"  # noqa: S108  a file without a name is made there
DISK_BYTES = 16 << 20
BLOCK_BYTES = 4096
LARGEST_COUNT = (1 << 32) - 1
MICRO_GUEST_TIMEOUT_S = 60.0
HARDWARE_BACKENDS = ("kvm_intel", "kvm_amd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workload", action="append", choices=sorted(WORKLOADS), help="repeat for more; default: all")
    parser.add_argument("--samples", type=int, default=3, help="samples of each workload")
    parser.add_argument("--target-ms", type=int, default=100, help="time that one sample should take")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for, in the order asked, and return the document to print."""
    begin_ns = clock_ns()
    outcomes = [
        measure_one(name, arguments.samples, arguments.target_ms * 1_000_000)
        for name in arguments.workload or sorted(WORKLOADS)
    ]
    return {
        "schema": "nestctl.measure/1",
        "begin_ns": begin_ns,
        "end_ns": clock_ns(),
        "environment": read_fingerprint(),
        "outcomes": outcomes,
    }


def measure_one(name: str, samples: int, target_ns: int) -> Outcome:
    """Measure one workload; the outcome has samples, or says why there are none."""
    outcome = {"workload": name, "samples": [], "not_measured": "", "how": "", "remark": ""}
    try:
        outcome.update(WORKLOADS[name](samples, target_ns))
    except (NotMeasuredError, NotFoundOut) as error:
        outcome["not_measured"] = str(error)
    except OSError as error:
        outcome["not_measured"] = f"the system refused: {error}"
    return outcome


def clock_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def timed(run_operations: Run, operations: int) -> dict[str, int]:
    before = read_disturbance()
    begin_ns = clock_ns()
    run_operations(operations)
    end_ns = clock_ns()
    return {**sample(operations, begin_ns, end_ns), **difference(before, read_disturbance())}


def sample(operations: int, begin_ns: int, end_ns: int) -> dict[str, int]:
    return {"operations": operations, "elapsed_ns": end_ns - begin_ns, "begin_ns": begin_ns, "end_ns": end_ns}


def take_samples(run_operations: Run, samples: int, target_ns: int, first_count: int) -> list[dict[str, int]]:
    operations = first_count
    while True:
        tried = timed(run_operations, operations)
        if tried["elapsed_ns"] >= target_ns // 8 or operations > LARGEST_COUNT // 2:
            break
        operations *= 2
    filling = operations * target_ns // max(tried["elapsed_ns"], 1)
    operations = min(max(filling, 1), LARGEST_COUNT)
    return [timed(run_operations, operations) for _ in range(samples)]


def measure_cpu(samples: int, target_ns: int) -> Outcome:
    """Time a loop in user mode that touches no memory and causes no exit; operations are iterations."""
    count_down = Routine(COUNT_DOWN, 1)
    return {
        "samples": take_samples(count_down, samples, target_ns, 1 << 12),
        "how": "machine code in user mode: dec ecx; jnz",
    }


def measure_memory_bandwidth(samples: int, target_ns: int) -> Outcome:
    """Time copying one half of the buffer to the other; operations are 64-byte lines copied."""
    copy = Routine(COPY, 3)
    lines = MEMORY_BYTES // 2 // LINE_BYTES
    buffer = _Buffer()
    buffer.fill()

    def copy_lines(count: int) -> None:
        for copied in range(0, count, lines):
            copy(buffer.start + MEMORY_BYTES // 2, buffer.start, min(lines, count - copied))

    return {
        "samples": take_samples(copy_lines, samples, target_ns, first_count=1 << 14),
        "how": f"machine code copies {MEMORY_BYTES >> 21} MiB with 16-byte loads and stores; a byte counts once",
    }


def measure_memory_latency(samples: int, target_ns: int) -> Outcome:
    """Time loads of which each needs the one before; operations are loads."""
    link, chase = Routine(LINK_CYCLE, 2), Routine(CHASE, 2)
    buffer = _Buffer()
    link(buffer.start, MEMORY_BYTES // LINE_BYTES)
    at = buffer.start

    def follow(count: int) -> None:
        nonlocal at
        at = chase(at, count)

    return {
        "samples": take_samples(follow, samples, target_ns, first_count=1 << 10),
        "how": f"machine code follows a scattered cycle through all lines of {MEMORY_BYTES >> 20} MiB: mov rax, [rax]",
    }


def measure_disk_write(samples: int, target_ns: int) -> Outcome:
    """Time 4 KiB writes at random places, each followed by fdatasync; operations are such pairs."""
    with _DiskFile(0) as disk:

        def write(count: int) -> None:
            for offset in disk.offsets(count):
                os.pwritev(disk.descriptor, [disk.block], offset)
                os.fdatasync(disk.descriptor)

        taken = take_samples(write, samples, target_ns, 1)
        remark = disk.remark()
    return {"samples": taken, "how": "4 KiB pwrite at random places of 16 MiB, then fdatasync", "remark": remark}


def measure_disk_read(samples: int, target_ns: int) -> Outcome:
    """Time 4 KiB reads at random places past the page cache, one at a time; operations are reads."""
    with _DiskFile(os.O_DIRECT) as disk:

        def read(count: int) -> None:
            for offset in disk.offsets(count):
                os.preadv(disk.descriptor, [disk.block], offset)

        taken = take_samples(read, samples, target_ns, 1)
        remark = disk.remark()
    return {"samples": taken, "how": "4 KiB O_DIRECT pread at random places of 16 MiB, one at a time", "remark": remark}


def measure_cpuid_exit(samples: int, target_ns: int) -> Outcome:
    """Time CPUID in a micro-guest of this machine: an exit of a guest one level below; operations are exits."""
    with open_device() as device, open_micro_guest(device) as guest, guest.deadline(MICRO_GUEST_TIMEOUT_S):
        taken = take_samples(lambda count: guest.run(CPUID_CODE, count), samples, target_ns, 1)
        loop = guest.run(LOOP_CODE, 20_000)
    backend = read_kvm_backend()
    if backend not in HARDWARE_BACKENDS:
        backend = f"{backend or 'an unknown backend'}: software, not the cost of hardware"
    remark = f"by {backend}; the same loop without CPUID takes {loop.ns_per_turn:.1f} ns per turn"
    return {
        "samples": taken,
        "how": "a guest without operating system in /dev/kvm: cpuid; dec esi; jnz",
        "remark": remark,
    }


WORKLOADS: dict[str, Measure] = {
    "cpu": measure_cpu,
    "memory_bandwidth": measure_memory_bandwidth,
    "memory_latency": measure_memory_latency,
    "disk_write": measure_disk_write,
    "disk_read": measure_disk_read,
    "cpuid_exit": measure_cpuid_exit,
}


class _DiskFile:
    """A file without a name on the machine's own disk: it is gone when the process ends, however it ends."""

    def __init__(self, flags: int) -> None:
        kind = file_system_type(DISK_DIRECTORY)
        if kind in ("tmpfs", "ramfs"):
            raise NotMeasuredError(f"{DISK_DIRECTORY} is in memory ({kind}), not on a disk")
        blocks = list(range(0, DISK_BYTES, BLOCK_BYTES))
        generator = random.Random(1)  # noqa: S311  the same places at every level, not a secret
        generator.shuffle(blocks)
        self._offsets = itertools.cycle(blocks)
        self.block = mmap.mmap(-1, BLOCK_BYTES)  # O_DIRECT wants an aligned buffer: a page of its own
        with tempfile.TemporaryFile(dir=DISK_DIRECTORY, buffering=0) as file:
            content = os.urandom(1 << 20)
            for _ in range(DISK_BYTES // len(content)):
                file.write(content)
            os.fsync(file.fileno())
            self.descriptor = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR | flags)

    def __enter__(self) -> _DiskFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def offsets(self, count: int) -> Iterator[int]:
        return itertools.islice(self._offsets, count)

    def remark(self) -> str:
        """Say how much of a figure is the interpreter: the same loop over a read behind the end, which does nothing."""
        count = 200
        begin_ns = clock_ns()
        for _ in self.offsets(count):
            os.preadv(self.descriptor, [self.block], DISK_BYTES)
        return f"of which Python and the system call take about {(clock_ns() - begin_ns) / count / 1000:.1f} µs"


def file_system_type(directory: str, mountinfo: str = "/proc/self/mountinfo") -> str:
    """Name the file system a directory is on, such as 'ext4'; empty when the kernel does not say."""
    device = Path(directory).stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path(mountinfo).read_text(encoding="utf-8", errors="replace").splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == number:
            return source.split()[0]
    return ""


class _Buffer:
    """Memory larger than most caches. Every level asks for huge pages: their defaults differ between systems."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, MEMORY_BYTES)
        with contextlib.suppress(OSError):  # a kernel without them; the fingerprint says so
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self.start = address_of(self._memory)

    def fill(self) -> None:
        """Make every page exist, so that no first touch is timed."""
        ctypes.memset(self.start, 1, MEMORY_BYTES)
