"""What the kernel of this machine does for its programs: system calls, switches and wake-ups, processes, timers."""

from __future__ import annotations

import mmap
import os
import time
from contextlib import ExitStack, contextmanager
from typing import Iterator

from .native import NotMeasuredError, Routine, address_of
from .sampling import Outcome, SampleRecord, clock_ns, sample, take_samples, take_timed

# rdi: how often. System call 110 is getppid (arch/x86/entry/syscalls/syscall_64.tbl), which does nothing else.
CALL = bytes.fromhex(
    "53 4889fb"  # push rbx; mov rbx, rdi
    "b86e000000 0f05"  # again: mov eax, 110; syscall
    "48ffcb 75f4"  # dec rbx; jnz again
    "5b c3"  # pop rbx; ret
)
# Write a byte and read one, over and over: rdi descriptor to write, rsi to read, rdx a buffer, rcx how often.
# Returns how often it was not done: the other side has gone.
EXCHANGE = bytes.fromhex(
    "53 4154 4155 4156"  # push rbx, r12, r13, r14
    "4889cb 4989fc 4989f5 4989d6"  # mov rbx, rcx; mov r12, rdi; mov r13, rsi; mov r14, rdx
    "b801000000 4c89e7 4c89f6 ba01000000 0f05"  # again: write(r12, r14, 1)
    "4883f801 751a"  # cmp rax, 1; jne out
    "31c0 4c89ef 4c89f6 ba01000000 0f05"  # read(r13, r14, 1)
    "4883f801 7505"  # cmp rax, 1; jne out
    "48ffcb 75ce"  # dec rbx; jnz again
    "4889d8"  # out: mov rax, rbx
    "415e 415d 415c 5b c3"  # pop r14, r13, r12, rbx; ret
)
FOREVER = (1 << 63) - 1
PROGRAM = "/bin/true"
NAP_NS = 1_000_000
MOST_NAPS = 1000


def measure_syscall(samples: int, target_ns: int) -> Outcome:
    """Time a system call that does nothing; operations are calls."""
    return {
        "samples": take_samples(Routine(CALL, 1), samples, target_ns, 1 << 6),
        "how": "machine code in user mode calls getppid",
    }


def measure_wake_same_cpu(samples: int, target_ns: int) -> Outcome:
    """Time a byte sent to another process on the same CPU and one back; operations are round trips."""
    (cpu, *_) = sorted(os.sched_getaffinity(0))
    return _measure_wake(samples, target_ns, cpu, cpu)


def measure_wake_other_cpu(samples: int, target_ns: int) -> Outcome:
    """Time a byte sent to a process on another CPU and one back; operations are round trips."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise NotMeasuredError("this machine has one CPU")
    return _measure_wake(samples, target_ns, cpus[0], cpus[1])


def _measure_wake(samples: int, target_ns: int, ours: int, theirs: int) -> Outcome:
    exchange = Routine(EXCHANGE, 4)
    with ExitStack() as stack:
        buffer = mmap.mmap(-1, mmap.PAGESIZE)
        stack.enter_context(bound_to(ours))
        write, read = stack.enter_context(_echo(exchange, address_of(buffer), theirs))

        def exchange_bytes(count: int) -> None:
            if exchange(write, read, address_of(buffer), count):
                raise NotMeasuredError("the other process has ended")

        taken = take_samples(exchange_bytes, samples, target_ns, 1)
    where = f"both on CPU {ours}" if ours == theirs else f"on CPUs {ours} and {theirs}"
    return {"samples": taken, "how": f"two processes, {where}, each in machine code: write a byte, read one (pipes)"}


@contextmanager
def bound_to(cpu: int) -> Iterator[None]:
    """Keep this process on one CPU, and afterwards where it was. Raises OSError for a CPU it may not use."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _echo(exchange: Routine, buffer: int, cpu: int) -> Iterator[tuple[int, int]]:
    """Start a process that sends back each byte, and yield the descriptors to write to it and to read from it.

    It ends when the pipe to it is closed, also when this process is killed.
    """
    their_read, our_write = os.pipe()
    our_read, their_write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(our_write)
            os.close(our_read)
            os.sched_setaffinity(0, {cpu})
            if os.read(their_read, 1):
                exchange(their_write, their_read, buffer, FOREVER)
        finally:
            os._exit(0)
    os.close(their_read)
    os.close(their_write)
    try:
        yield our_write, our_read
    finally:
        os.close(our_write)
        os.close(our_read)
        os.waitpid(child, 0)


def measure_fork_exec(samples: int, target_ns: int) -> Outcome:
    """Time starting a program that ends at once; operations are processes."""
    if not os.path.exists(PROGRAM):  # noqa: PTH110
        raise NotMeasuredError(f"there is no {PROGRAM}")

    def start(count: int) -> None:
        for _ in range(count):
            os.waitpid(os.posix_spawn(PROGRAM, [PROGRAM], {}), 0)

    return {"samples": take_samples(start, samples, target_ns, 1), "how": f"posix_spawn of {PROGRAM}, and waitpid"}


def measure_timer_wake(samples: int, target_ns: int) -> Outcome:
    """Time by how much a sleep of 1 ms is too long; operations are sleeps."""

    def nap(count: int) -> SampleRecord:
        late_ns, begin_ns = 0, clock_ns()
        for _ in range(count):
            before_ns = clock_ns()
            time.sleep(NAP_NS / 1e9)
            late_ns += max(clock_ns() - before_ns - NAP_NS, 1)
        # Only what was too much counts; the sample ends when the last sleep does.
        return {**sample(count, begin_ns, clock_ns()), "elapsed_ns": late_ns}

    count = max(1, min(MOST_NAPS, target_ns // NAP_NS))
    return {
        "samples": take_timed(nap, samples, target_ns, count, most=count),
        "how": f"sleeps of 1 ms, {count} in a sample; Python takes about a microsecond of it",
    }
