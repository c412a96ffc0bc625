"""Exits of micro-guests and what KVM counted: judged over made-up counters, and run for real where /dev/kvm is."""

import os
import signal
import struct
from collections.abc import Callable

import pytest

from nestctl.agent import exits, faults, flat_guest, kvm, kvm_stats, measure, memory
from nestctl.agent.exits import Exit, with_exits
from nestctl.agent.fact import NotFoundOut
from nestctl.agent.kvm import open_device
from nestctl.agent.sampling import Outcome, SampleRecord, Time

needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="/dev/kvm may not be used here")
CPUID = Exit("", b"", {})
HYPERCALL = Exit("", b"", {}, counter="hypercalls", is_exact=True)


def judged(cause: Exit, *, per_exit: int = 1, **counted: int) -> dict[str, object]:
    zero = {"exits": 0, "hypercalls": 0}
    return with_exits({"operations": 100}, zero, {**zero, **counted}, cause, per_exit)


def test_as_many_exits_as_operations_are_a_sample() -> None:
    assert judged(CPUID, exits=103) == {"operations": 100, "exits": 103}
    assert judged(HYPERCALL, exits=130, hypercalls=100) == {"operations": 100, "exits": 130}


def test_too_few_exits_and_other_exits_make_it_void() -> None:
    assert "KVM counted 7 'exits' for 100 operations" in str(judged(CPUID, exits=7)["void"])
    assert "KVM counted 0 'hypercalls'" in str(judged(HYPERCALL, exits=130)["void"])
    assert "KVM counted 160 'hypercalls'" in str(judged(HYPERCALL, exits=160, hypercalls=160)["void"])


def test_a_page_of_two_mebibytes_leaves_once_for_all_its_parts() -> None:
    assert "void" not in judged(CPUID, per_exit=50, exits=2)
    assert "void" in judged(CPUID, per_exit=50, exits=1)


def test_without_counters_nothing_is_claimed() -> None:
    assert with_exits({"operations": 100}, {}, {}, CPUID) == {"operations": 100}


def test_descriptors_of_the_kernel_are_read() -> None:
    def descriptor(name: bytes, values: int, offset: int) -> bytes:
        return struct.pack("=IhHII", 0, 0, values, offset, 0) + name.ljust(48, b"\0")

    table = descriptor(b"exits", 1, 8) + descriptor(b"halt_poll_histogram", 32, 16) + descriptor(b"io_exits", 1, 272)
    assert kvm_stats.parse_descriptors(table, 48, 1000) == {"exits": 1008, "io_exits": 1272}
    assert kvm_stats.parse_descriptors(table[:-1], 48, 1000) == {"exits": 1008}


def test_a_kernel_without_counters_is_said() -> None:
    with open(os.devnull, "rb") as file, pytest.raises(NotFoundOut, match=r"KVM_GET_STATS_FD, Linux 5\.14"):  # noqa: PTH123
        kvm_stats.Stats(file.fileno())


@needs_kvm
def test_a_flat_guest_comes_back_and_its_counters_grow() -> None:
    with open_device() as device, flat_guest.open_flat_guest(device) as (_, guest), guest.deadline(30):
        before = guest.read_counters()
        guest.load(exits.LOOP, esi=1000)
        guest.run()
        assert before.keys() == guest.read_counters().keys()
        assert all(guest.read_counters()[name] >= count for name, count in before.items())


@needs_kvm
def test_user_space_is_reached_once_for_every_exit() -> None:
    with open_device() as device, flat_guest.open_flat_guest(device) as (_, guest), guest.deadline(30):
        guest.load(exits.OUT_FOREVER, edx=exits.FREE_PORT)
        guest.run_again(5, kvm.KVM_EXIT_IO)
        with pytest.raises(NotFoundOut, match="exit reason 2, not 6"):
            guest.run_again(1, flat_guest.KVM_EXIT_MMIO)


@needs_kvm
def test_a_deadline_that_passes_between_two_runs_is_a_timeout() -> None:
    with open_device() as device, flat_guest.open_flat_guest(device) as (_, guest), guest.deadline(0.01):
        signal.pause()  # until the alarm of the deadline
        with pytest.raises(TimeoutError, match="did not end within"):
            guest.run()


@needs_kvm
def test_a_guest_that_hangs_is_ended_by_the_deadline() -> None:
    with open_device() as device, flat_guest.open_flat_guest(device) as (_, guest):
        guest.load(bytes.fromhex("ebfe"))  # jmp to itself
        with pytest.raises(TimeoutError), guest.deadline(0.2):
            guest.run()
    with open_device() as device, flat_guest.open_flat_guest(device) as (_, guest):
        guest.load(bytes.fromhex("ebfe"))
        with pytest.raises(TimeoutError), guest.deadline(0.2):
            guest.run_again(3, kvm.KVM_EXIT_IO)


@needs_kvm
def test_the_dirty_log_has_exactly_the_pages_that_were_written() -> None:
    with open_device() as device:
        region = memory.Memory(faults.LOGGED_PAGES * memory.PAGE_BYTES, is_huge=False)
        with flat_guest.open_flat_guest(device, region=region, is_logged=True) as (machine, guest), guest.deadline(30):
            guest.load(faults.TOUCH, edi=flat_guest.REGION_ADDRESS, ebp=memory.PAGE_BYTES, esi=37)
            guest.run()
            assert faults.take_dirty_log(machine) == 37
            assert faults.take_dirty_log(machine) == 0
        region.close()


@needs_kvm
@pytest.mark.parametrize("measure_pages", [faults.measure_dirty_log, faults.measure_first_touch_4k])
def test_as_many_pages_are_touched_as_a_sample_needs(
    measure_pages: Callable[[int, int], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one, which the end of the run would be half of, and not a thousand, which take an emulated l3 a minute."""
    counts: list[int] = []

    def time_exits(guest: flat_guest.FlatGuest, cause: Exit, operations_per_exit: int = 1) -> Time:
        time_operations = exits.time_exits(guest, cause, operations_per_exit)

        def time_counted(count: int) -> SampleRecord:
            counts.append(count)
            return time_operations(count)

        return time_counted

    monkeypatch.setattr(faults, "time_exits", time_exits)
    (sample,) = measure_pages(1, 1)["samples"]
    assert {*counts, sample["operations"]} == {exits.FEWEST_EXITS}


@needs_kvm
def test_nothing_stays_open() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = descriptors()
    for name in ("notify_exit", "timer_exit", "vcpu_create", "dirty_log", "first_touch_4k"):
        measure.measure_one(name, samples=1, target_ns=1_000_000)
    assert descriptors() == before
