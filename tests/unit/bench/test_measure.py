"""The agent's workloads, run for real with small targets. No test looks at how fast they are."""

import ctypes
import errno
import mmap
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nestctl.agent import exits, measure, memory, native, sampling, walks
from nestctl.agent.native import NotMeasuredError


def test_routines_do_what_their_names_say() -> None:
    lines = 1 << 10
    memory = mmap.mmap(-1, lines * native.LINE_BYTES)
    start = native.address_of(memory)
    native.Routine(native.LINK_CYCLE, 2)(start, lines)
    chase = native.Routine(native.CHASE, 2)
    visited = {chase(start, count) for count in range(1, lines + 1)}
    assert visited == {start + line * native.LINE_BYTES for line in range(lines)}
    assert chase(start, lines) == start

    half = len(memory) // 2
    memory[:half] = bytes(range(256)) * (half // 256)
    memory[half:] = bytes(half)
    native.Routine(native.COPY, 3)(start + half, start, half // native.LINE_BYTES)
    assert memory[half:] == memory[:half]


def test_routine_says_why_it_cannot_run_on_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(native.NotMeasuredError, match="aarch64"):
        native.Routine(native.COUNT_DOWN, 1)


def test_count_down_ends_and_its_count_is_what_takes_the_time() -> None:
    count_down = native.Routine(native.COUNT_DOWN, 1)
    short = sampling.timed(count_down, 1 << 10)
    long = sampling.timed(count_down, 1 << 24)
    assert long["elapsed_ns"] > 10 * short["elapsed_ns"]


@pytest.mark.parametrize("name", sorted(measure.WORKLOADS))
def test_every_workload_gives_samples_or_a_reason(name: str) -> None:
    outcome = measure.measure_one(name, samples=2, target_ns=2_000_000)
    assert outcome["workload"] == name
    assert bool(outcome["samples"]) != bool(outcome["not_measured"])
    for sample in outcome["samples"]:
        assert sample["operations"] >= 1
        assert 0 < sample["elapsed_ns"] <= sample["end_ns"] - sample["begin_ns"]


def test_without_dev_kvm_there_is_a_reason_and_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def missing() -> Iterator[int]:
        raise FileNotFoundError(2, "No such file or directory", "/dev/kvm")
        yield 0

    monkeypatch.setattr(exits, "open_device", missing)
    outcome = measure.measure_one("cpuid_exit", samples=2, target_ns=1_000_000)
    assert outcome["samples"] == []
    assert "/dev/kvm" in outcome["not_measured"]


class Clock:
    """A clock that a workload moves on; `stalls` are added to single runs, by their number."""

    def __init__(self, ns_per_operation: int, stalls: dict[int, int] | None = None) -> None:
        self.now_ns = 0
        self._cost = ns_per_operation
        self._stalls = stalls or {}
        self._runs = 0

    def run(self, count: int) -> None:
        self.now_ns += count * self._cost + self._stalls.get(self._runs, 0)
        self._runs += 1


def test_calibration_fills_the_time_and_keeps_the_count_for_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(10)
    monkeypatch.setattr(sampling, "clock_ns", lambda: clock.now_ns)
    samples = sampling.take_samples(clock.run, samples=3, target_ns=100_000, first_count=1)
    assert [sample["elapsed_ns"] for sample in samples] == [100_000] * 3
    assert [sample["operations"] for sample in samples] == [10_000] * 3


def test_operations_that_take_longer_than_a_sample_are_not_fewer_than_the_first_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One exit of an emulated l3 alone would be priced with the exit that ends the run."""
    clock = Clock(1_000_000)
    monkeypatch.setattr(sampling, "clock_ns", lambda: clock.now_ns)
    samples = sampling.take_samples(clock.run, samples=2, target_ns=100_000, first_count=32)
    assert [sample["operations"] for sample in samples] == [32, 32]


def test_what_takes_longer_than_anybody_waits_is_not_measured_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, not seven times: under an emulated l3 the first touch of a page of 2 MiB takes twenty seconds."""
    clock = Clock(1_250_000_000)
    monkeypatch.setattr(sampling, "clock_ns", lambda: clock.now_ns)
    with pytest.raises(NotMeasuredError, match="at least takes 20 s here, more than 5"):
        sampling.take_samples(clock.run, samples=3, target_ns=100_000_000, first_count=16)
    assert clock.now_ns == 16 * 1_250_000_000


def test_a_micro_guest_that_does_not_end_says_that_and_not_what_the_system_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang(samples: int, target_ns: int) -> sampling.Outcome:
        raise TimeoutError(errno.ETIMEDOUT, "the micro-guest did not end within 60 s")

    monkeypatch.setitem(measure.WORKLOADS, "cpuid_exit", hang)
    outcome = measure.measure_one("cpuid_exit", samples=1, target_ns=1)
    assert outcome["not_measured"] == "the micro-guest did not end within 60 s"


def test_a_stall_while_calibrating_does_not_make_samples_short(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(10, stalls={0: 10**9})
    monkeypatch.setattr(sampling, "clock_ns", lambda: clock.now_ns)
    (sample,) = sampling.take_samples(clock.run, samples=1, target_ns=100_000, first_count=1)
    assert sample["operations"] == 10_000


def test_samples_that_came_out_short_are_taken_again_with_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both runs of the first count stall, so one operation seems to fill the time."""
    clock = Clock(10, stalls={0: 10**9, 1: 10**9})
    monkeypatch.setattr(sampling, "clock_ns", lambda: clock.now_ns)
    samples = sampling.take_samples(clock.run, samples=2, target_ns=100_000, first_count=1)
    assert [sample["operations"] for sample in samples] == [10_000, 10_000]


def test_a_sample_never_has_more_operations_than_there_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(10)
    monkeypatch.setattr(sampling, "clock_ns", lambda: clock.now_ns)

    def run(count: int) -> sampling.SampleRecord:
        return sampling.timed(clock.run, count)

    samples = sampling.take_timed(run, 2, 100_000, 1, most=100)
    assert [sample["operations"] for sample in samples] == [100, 100]


def test_disk_file_leaves_nothing_and_covers_every_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "DISK_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(measure, "file_system_type", lambda _: "ext4")
    with measure._DiskFile(0) as disk:
        assert list(tmp_path.iterdir()) == []
        blocks = measure.DISK_BYTES // measure.BLOCK_BYTES
        assert sorted(disk.offsets(blocks)) == [block * measure.BLOCK_BYTES for block in range(blocks)]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_memory_is_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "file_system_type", lambda _: "tmpfs")
    assert "in memory (tmpfs)" in measure.measure_one("disk_write", samples=1, target_ns=1)["not_measured"]


def test_file_system_type_is_read_from_mountinfo(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    mountinfo = tmp_path / "mountinfo"
    line = f"25 1 {os.major(device)}:{os.minor(device)} / /x rw,relatime shared:1 - ext4 /dev/vda rw\n"
    mountinfo.write_text("22 1 0:999 / /proc rw - proc proc rw\n" + line)
    assert measure.file_system_type(str(tmp_path), str(mountinfo)) == "ext4"


@pytest.mark.parametrize("is_huge", [True, False])
def test_memory_is_aligned_can_be_written_everywhere_and_is_empty_when_dropped(is_huge: bool) -> None:
    size = 4 << 20
    buffer = memory.Memory(size, is_huge=is_huge)
    assert buffer.start % memory.HUGE_BYTES == 0
    buffer.fill()
    assert ctypes.string_at(buffer.start + size - 1, 1) == b"\1"
    buffer.drop()
    assert ctypes.string_at(buffer.start + size - 1, 1) == b"\0"
    buffer.close()


def test_huge_pages_are_read_of_the_mapping_that_holds_the_address() -> None:
    smaps = (
        "7f00000000-7f00200000 rw-p 00000000 00:00 0 \nAnonHugePages:      0 kB\n"
        "7f00200000-7f00600000 rw-p 00000000 00:00 0 \nSize: 4096 kB\nAnonHugePages:   4096 kB\n"
    )
    assert memory.read_huge_bytes(0x7F00200000, smaps) == 4 << 20
    assert memory.read_huge_bytes(0x7F003FFFFF, smaps) == 4 << 20
    assert memory.read_huge_bytes(0x7F00000000, smaps) == 0
    assert memory.read_huge_bytes(0x1000, smaps) == 0


def test_pages_of_the_wrong_size_are_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, refused = memory.Memory(4 << 20, is_huge=True), memory.Memory(4 << 20, is_huge=False)
    monkeypatch.setattr(memory, "read_huge_bytes", lambda _address, _smaps: 2 << 20)
    with pytest.raises(native.NotMeasuredError, match="2 of 4 MiB in 2 MiB pages: too little"):
        wanted.expect_pages()
    wanted.expect_pages(touched=2 << 20)
    with pytest.raises(native.NotMeasuredError, match="which were not wanted"):
        refused.expect_pages()


def test_memory_that_is_not_there_is_not_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    walks.expect_memory(1 << 30, "MemAvailable:   1179648 kB\n")
    walks.expect_memory(1 << 30, "a kernel that does not say\n")
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 2000000 kB\nMemAvailable:   1179647 kB\n")
    monkeypatch.setattr(walks, "MEMINFO", str(meminfo))
    reason = measure.measure_one("walk_4k_1g", samples=1, target_ns=1)["not_measured"]
    assert reason == "1024 MiB are wanted, 128 MiB besides, and 1151 MiB of memory are available"


def test_memory_that_takes_too_long_to_prepare_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "LONGEST_S", 0.0)
    reason = measure.measure_one("walk_4k_64m", samples=1, target_ns=1)["not_measured"]
    assert reason.startswith("preparing 64 MiB would take")
