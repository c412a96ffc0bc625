"""Measure this machine: short workloads whose operations are counted and timed, printed as one JSON document.

Every time is in nanoseconds of CLOCK_MONOTONIC_RAW, which nothing slews. A workload first doubles its count until it
takes an eighth of the time asked for (which also warms it up), then takes its samples with the count that fills the
time. What cannot be measured is said with its reason.
"""

from __future__ import annotations

import argparse
import itertools
import json
import mmap
import os
import random
import sys
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator

from . import exits, faults, kernel, wakes, walks
from .fact import NotFoundOut
from .memory import Memory
from .native import COPY, COUNT_DOWN, LINE_BYTES, NotMeasuredError, Routine
from .sampling import Outcome, clock_ns, pausing, take_samples

Measure = Callable[[int, int], Outcome]

MEMORY_BYTES = 64 << 20
DISK_DIRECTORY = "/var/tmp"  # noqa: S108  a file without a name is made there
DISK_BYTES = 16 << 20
BLOCK_BYTES = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the subcommand `measure`."""
    parser.add_argument("--workload", action="append", choices=sorted(WORKLOADS), help="repeat for more; default: all")
    parser.add_argument(
        "--pause", action="append", default=[], help="a workload to stop before and after the samples of"
    )
    parser.add_argument("--samples", type=int, default=3, help="samples of each workload")
    parser.add_argument("--target-ms", type=int, default=100, help="time that one sample should take")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for, in the order asked, and return the document to print."""
    begin_ns = clock_ns()
    outcomes: list[Outcome] = []
    paused_ns: list[int] = []
    for name in arguments.workload or sorted(WORKLOADS):
        with pausing(partial(_ask, name, paused_ns)) if name in arguments.pause else nullcontext():
            outcomes.append(measure_one(name, arguments.samples, arguments.target_ms * 1_000_000))
    return {
        "schema": "nestctl.measure/1",
        "begin_ns": begin_ns,
        "end_ns": clock_ns(),
        "paused_ns": sum(paused_ns),
        "outcomes": outcomes,
    }


def _ask(workload: str, paused_ns: list[int], at: str) -> None:
    """Say that samples begin or have ended, and wait for a line: whoever asked looks at counters and clocks then."""
    begin_ns = clock_ns()
    json.dump({"schema": "nestctl.pause/1", "workload": workload, "at": at}, sys.stdout)
    sys.stdout.write("\n")
    sys.stdout.flush()
    sys.stdin.readline()
    paused_ns.append(clock_ns() - begin_ns)


def measure_one(name: str, samples: int, target_ns: int) -> Outcome:
    """Measure one workload; the outcome has samples, or says why there are none."""
    outcome = {"workload": name, "samples": [], "not_measured": "", "how": "", "remark": ""}
    try:
        outcome.update(WORKLOADS[name](samples, target_ns))
    except (NotMeasuredError, NotFoundOut) as error:
        outcome["not_measured"] = str(error)
    except TimeoutError as error:  # of a micro-guest, so what it says is ours and not the system's
        outcome["not_measured"] = str(error.strerror)
    except OSError as error:
        outcome["not_measured"] = f"the system refused: {error}"
    return outcome


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
    buffer = Memory(MEMORY_BYTES, is_huge=True)
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
    return walks.measure_chase(MEMORY_BYTES, samples, target_ns, is_huge=True)


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


WORKLOADS: dict[str, Measure] = {
    "cpu": measure_cpu,
    "memory_bandwidth": measure_memory_bandwidth,
    "memory_latency": measure_memory_latency,
    "disk_write": measure_disk_write,
    "disk_read": measure_disk_read,
    "syscall": kernel.measure_syscall,
    "wake_same_cpu": kernel.measure_wake_same_cpu,
    "wake_other_cpu": kernel.measure_wake_other_cpu,
    "fork_exec": kernel.measure_fork_exec,
    "timer_wake": kernel.measure_timer_wake,
    "cpuid_exit": exits.measure_cpuid_exit,
    "hypercall_exit": exits.measure_hypercall_exit,
    "msr_write_exit": exits.measure_msr_write_exit,
    "port_kernel_exit": exits.measure_port_kernel_exit,
    "port_user_exit": exits.measure_port_user_exit,
    "mmio_user_exit": exits.measure_mmio_user_exit,
    "notify_exit": exits.measure_notify_exit,
    "timer_exit": exits.measure_timer_exit,
    "nested_exit": exits.measure_nested_exit,
    "ipi": wakes.measure_ipi,
    "halt_wake": wakes.measure_halt_wake,
    "vm_create": exits.measure_vm_create,
    "vcpu_create": exits.measure_vcpu_create,
    "first_touch_4k": faults.measure_first_touch_4k,
    "first_touch_2m": faults.measure_first_touch_2m,
    "dirty_log": faults.measure_dirty_log,
    **{f"walk_4k_{name}": walks.chase_of(size, is_huge=False) for name, size in walks.WALK_BYTES.items()},
    **{f"walk_2m_{name}": walks.chase_of(size, is_huge=True) for name, size in walks.WALK_BYTES.items()},
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
