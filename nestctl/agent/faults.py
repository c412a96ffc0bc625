"""What memory costs a guest one level below: the first touch of a page, and a write that KVM has to note."""

from __future__ import annotations

import ctypes
import fcntl
import struct
from contextlib import ExitStack

from .exits import FEWEST_EXITS, TIMEOUT_S, Exit, time_exits
from .flat_guest import REGION_ADDRESS, open_flat_guest
from .kvm import open_device
from .memory import HUGE_BYTES, PAGE_BYTES, Memory
from .sampling import Outcome, SampleRecord, take_timed

KVM_GET_DIRTY_LOG = 0x4010AE42
DIRTY_LOG = struct.Struct("=IIQ")  # struct kvm_dirty_log: slot padding bitmap
REGION_BYTES = 32 << 20
PAGES = REGION_BYTES // PAGE_BYTES
LOGGED_PAGES = 1024
TOUCH = bytes.fromhex("8907 01ef 4e 75f9 e6f4")  # mov [edi], eax; add edi, ebp; dec esi; jnz; out END_PORT, al


def measure_first_touch_4k(samples: int, target_ns: int) -> Outcome:
    """Time a guest's first touch of memory that is in 4 KiB pages here; operations are pages of 4 KiB."""
    return _measure_touch(samples, target_ns, is_huge=False)


def measure_first_touch_2m(samples: int, target_ns: int) -> Outcome:
    """Time a guest's first touch of memory that is in 2 MiB pages here; operations are pages of 4 KiB."""
    return _measure_touch(samples, target_ns, is_huge=True)


def _measure_touch(samples: int, target_ns: int, *, is_huge: bool) -> Outcome:
    with ExitStack() as stack:
        memory = Memory(REGION_BYTES, is_huge=is_huge)
        stack.callback(memory.close)
        device = stack.enter_context(open_device())
        _, guest = stack.enter_context(open_flat_guest(device, region=memory))
        stack.enter_context(guest.deadline(TIMEOUT_S))
        # A page of 2 MiB is touched 512 times and faults once.
        cause = Exit("", TOUCH, {"edi": REGION_ADDRESS, "ebp": PAGE_BYTES})
        step = HUGE_BYTES // PAGE_BYTES if is_huge else 1
        touch = time_exits(guest, cause, operations_per_exit=step)

        def touch_anew(count: int) -> SampleRecord:
            memory.drop()
            return touch(max(count // step, 1) * step)

        taken = take_timed(touch_anew, samples, target_ns, FEWEST_EXITS, most=PAGES)
        memory.expect_pages(taken[-1]["operations"] * PAGE_BYTES)
    pages = "2 MiB" if is_huge else "4 KiB"
    return {
        "samples": taken,
        "how": f"a guest without operating system stores once in each 4 KiB; in {pages} pages here",
    }


def measure_dirty_log(samples: int, target_ns: int) -> Outcome:
    """Time a guest's writes to pages whose writing KVM notes, as for migration; operations are pages of 4 KiB."""
    with ExitStack() as stack:
        memory = Memory(LOGGED_PAGES * PAGE_BYTES, is_huge=False)
        stack.callback(memory.close)
        memory.fill()
        device = stack.enter_context(open_device())
        machine, guest = stack.enter_context(open_flat_guest(device, region=memory, is_logged=True))
        stack.enter_context(guest.deadline(TIMEOUT_S))
        # How many exits there are is up to the processor (page-modification logging): the log is the proof.
        cause = Exit("", TOUCH, {"edi": REGION_ADDRESS, "ebp": PAGE_BYTES})
        touch = time_exits(guest, cause, operations_per_exit=LOGGED_PAGES)
        touched = 0

        def touch_clean(count: int) -> SampleRecord:
            nonlocal touched
            if count > touched:  # for the first time, which is not to be timed: tens of milliseconds each in an l3
                touch(count)
                touched = count
            take_dirty_log(machine)
            record = touch(count)
            noted = take_dirty_log(machine)
            if noted != count:
                record["void"] = f"KVM noted {noted} written pages where {count} were written"
            return record

        taken = take_timed(touch_clean, samples, target_ns, FEWEST_EXITS, most=LOGGED_PAGES)
    return {"samples": taken, "how": "a guest without operating system stores once in each 4 KiB that is to be noted"}


def take_dirty_log(machine: int) -> int:
    """Return how many of the logged pages were written since the last call; they count as clean again."""
    bitmap = ctypes.create_string_buffer(LOGGED_PAGES // 8)
    fcntl.ioctl(machine, KVM_GET_DIRTY_LOG, DIRTY_LOG.pack(1, 0, ctypes.addressof(bitmap)))
    return bin(int.from_bytes(bitmap.raw, "little")).count("1")
