"""The micro-guest itself, where /dev/kvm opens; what needs no device, everywhere."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import cast

import pytest

from nestctl.agent import kvm, proof
from nestctl.agent.fact import NotFoundOut


def entry(function: int, ecx: int) -> tuple[int, ...]:
    return (function, 0, 0, 0, 0, ecx, 0, 0, 0, 0)


@pytest.fixture
def device() -> Iterator[int]:
    try:
        with kvm.open_device() as descriptor:
            yield descriptor
    except OSError as error:
        pytest.skip(f"/dev/kvm does not open: {error.strerror}")


@pytest.fixture
def guest(device: int) -> Iterator[kvm.MicroGuest]:
    with kvm.open_micro_guest(device) as guest:
        yield guest


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_offers_are_read_from_the_two_bits() -> None:
    vmx = kvm.SupportedCpuid(b"", (entry(1, 1 << 5), entry(0x80000001, 0)))
    svm = kvm.SupportedCpuid(b"", (entry(1, ~(1 << 5)), entry(0x80000001, 1 << 2)))
    assert (vmx.offers_vmx, vmx.offers_svm, svm.offers_vmx, svm.offers_svm) == (True, False, False, True)


@pytest.mark.skipif(not shutil.which("objdump"), reason="objdump is not installed")
@pytest.mark.parametrize(
    ("code", "instructions"),
    [
        (proof.LOOP_CODE, ["dec ecx", "jne 0x0", "out 0xf4,al"]),
        (proof.CPUID_CODE, ["xor eax,eax", "cpuid", "dec esi", "jne 0x0", "out 0xf4,al"]),
    ],
)
def test_machine_code_is_what_its_comments_say(code: bytes, instructions: list[str], tmp_path: Path) -> None:
    (tmp_path / "code").write_bytes(code)
    command = [
        "objdump",
        "-D",
        "-b",
        "binary",
        "-m",
        "i8086",
        "-M",
        "intel",
        "--no-show-raw-insn",
        str(tmp_path / "code"),
    ]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [line.split("\t")[1] for line in listing.splitlines() if "\t" in line]
    assert [" ".join(line.split()) for line in lines] == instructions


def test_a_missing_device_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), kvm.open_device(str(tmp_path / "kvm")):
        pass


def test_api_version_is_the_one_there_is(device: int) -> None:
    # api.rst, 4.1: "applications should refuse to run if it returns a value other than 12".
    assert kvm.read_api_version(device) == 12


def test_the_guest_turns_as_often_as_it_was_told(guest: kvm.MicroGuest) -> None:
    few, many = guest.run(proof.LOOP_CODE, 100), guest.run(proof.LOOP_CODE, 100_000)
    assert (few.turns, many.turns) == (100, 100_000)
    assert many.elapsed_ns > few.elapsed_ns


@pytest.mark.parametrize("code", [proof.LOOP_CODE, proof.CPUID_CODE])
@pytest.mark.usefixtures("device")
def test_measuring_gives_as_many_equal_runs_as_asked_and_leaves_nothing_open(code: bytes) -> None:
    before = open_descriptors()
    samples = proof.measure_code(code, target_s=0.001, repeats=3)
    assert len(samples) == 3
    assert len({sample.turns for sample in samples}) == 1
    assert samples[0].elapsed_ns >= 1_000_000
    assert open_descriptors() == before


class Undisturbed:
    """A guest whose turn takes 5 ns, and 0.1 ms to enter; the n-th run is interrupted for the n-th of some times."""

    def __init__(self, stalls_ms: Sequence[int]) -> None:
        self.stalls_ms = [*stalls_ms]

    def deadline(self, _timeout_s: float) -> AbstractContextManager[None]:
        return nullcontext()

    def run(self, turns: int) -> kvm.Sample:
        stall_ms = self.stalls_ms.pop(0) if self.stalls_ms else 0
        return kvm.Sample(turns=turns, elapsed_ns=100_000 + 5 * turns + stall_ms * 1_000_000)


@pytest.mark.parametrize(
    "stalls_ms", [(), (0,) * 4 + (9, 4, 14), (0,) * 4 + (9, 4, 14, 0, 20, 3, 4), (0,) * 7 + (8,) * 2]
)
def test_a_busy_machine_does_not_make_a_guest_slow(stalls_ms: Sequence[int]) -> None:
    guest = Undisturbed(stalls_ms)
    samples = proof.measure(cast("kvm.MicroGuest", guest), guest.run, target_s=0.002, repeats=2)
    assert len(samples) == 2
    assert 5 < samples[0].ns_per_turn < 6


class ThreeLevelsDown:
    """Under emulation on a busy machine: 2.9 s until the first answer, then 80 ms to enter and 50 ms for an exit."""

    left_s = 0.0
    first_s = 2.9

    @contextmanager
    def deadline(self, timeout_s: float) -> Iterator[None]:
        self.left_s = timeout_s
        yield

    def run(self, turns: int) -> kvm.Sample:
        taken_s, self.first_s = self.first_s or 0.08 + 0.05 * turns, 0.0
        self.left_s -= taken_s
        if self.left_s < 0:
            raise TimeoutError
        return kvm.Sample(turns=turns, elapsed_ns=round(taken_s * 1e9))


def test_a_guest_that_is_slow_does_not_hang() -> None:
    guest = ThreeLevelsDown()
    guest_of_kvm = cast("kvm.MicroGuest", guest)
    timeout_s = proof.PROBE_TIMEOUT_S
    (sample,) = proof.measure(guest_of_kvm, guest.run, target_s=0.002, repeats=1, timeout_s=timeout_s)
    assert 0.05e9 < sample.ns_per_turn < 0.06e9
    guest.first_s = 3600
    with pytest.raises(TimeoutError):
        proof.measure(guest_of_kvm, guest.run, target_s=0.002, timeout_s=timeout_s)


def test_a_guest_that_never_ends_is_ended_by_the_deadline(guest: kvm.MicroGuest) -> None:
    begun_s = time.monotonic()
    with pytest.raises(TimeoutError), guest.deadline(0.1):
        guest.run(bytes.fromhex("eb fe"), 1)  # again: jmp again
    assert time.monotonic() - begun_s < 1
    assert guest.run(proof.LOOP_CODE, 10).turns == 10


def test_the_deadline_gives_the_alarm_back(guest: kvm.MicroGuest) -> None:
    previous = signal.getsignal(signal.SIGALRM)
    with guest.deadline(5):
        assert signal.getsignal(signal.SIGALRM) is not previous
    assert signal.getsignal(signal.SIGALRM) is previous
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_guest_that_stops_in_another_way_is_not_believed(guest: kvm.MicroGuest) -> None:
    with pytest.raises(NotFoundOut, match="exit reason"), guest.deadline(1):
        guest.run(bytes.fromhex("e6 80"), 1)  # out 0x80, al: leaves to user space


@pytest.mark.usefixtures("device")
def test_facts_are_found_in_well_under_a_second() -> None:
    begun_s = time.monotonic()
    facts = proof.read_facts()
    assert time.monotonic() - begun_s < 0.5
    assert "value" in facts["loop"]
    assert "value" in facts["cpuid_exit"]


def test_passive_does_not_open_the_device() -> None:
    facts = proof.read_facts(passive=True)
    assert {facts[question]["unknown"] for question in proof.ACTIVE_QUESTIONS} == {proof.NOT_PROVED}
