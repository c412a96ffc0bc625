"""Prove what /dev/kvm says with micro-guests: they run, and the time that they take tells what runs them.

CPUID is handled inside the kernel, so one KVM_RUN covers thousands of exits and what Python itself costs disappears in
them.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Sequence

from .device import look_at
from .fact import Fact, find_out, unknown
from .kvm import DEVICE, MicroGuest, Sample, open_device, open_micro_guest, read_api_version, read_supported_cpuid

# 16-bit code; the prefix 66 makes an operand 32 bits wide (Intel SDM volume 2 has every encoding).
LOOP_CODE = bytes.fromhex(
    "66 49"  # again: dec ecx
    "75 fc"  #        jnz again
    "e6 f4"  #        out END_PORT, al
)
CPUID_CODE = bytes.fromhex(
    "66 31 c0"  # again: xor eax, eax
    "0f a2"  #           cpuid        ; leaves through the hypervisor; overwrites eax, ebx, ecx, edx
    "66 4e"  #           dec esi
    "75 f7"  #           jnz again
    "e6 f4"  #           out END_PORT, al
)

NOT_PROVED = "It was not tried: --passive only reads."
# For a guest's first answer; one that hangs is ended. A hundredth is enough, but three levels down, where all is
# emulated and other programs run, first answers took up to 3 s.
PROBE_TIMEOUT_S = 5.0
FOLLOWING = 2  # times as long for all that follows the first answer
FIRST_TURNS = 10  # few enough for a backend that needs microseconds per instruction, or an exit of a millisecond
CALIBRATION_RUNS = 3  # of which each has to be long enough: a single one may have been interrupted
# Undisturbed runs differ by a few percent. Those of a busy machine do not agree, and more of them have to be long.
LARGEST_DIFFERENCE = 1.3
MOST_CALIBRATION_RUNS = 6


def measure(
    guest: MicroGuest, run: Callable[[int], Sample], *, target_s: float, repeats: int = 1, timeout_s: float = 5.0
) -> list[Sample]:
    """Time what `run` does in `guest`: double its turns until it takes `target_s`; return `repeats` runs of that many.

    A run also has to take ten times what entering the guest costs, which is milliseconds two levels down. Of several
    runs the shortest decide: on a busy machine a single one says nothing. Raises `TimeoutError` when the first run has
    not ended after `timeout_s`, and after twice that for all others.
    """
    with guest.deadline(timeout_s):
        run(1)  # it pays for the guest's page faults
    with guest.deadline(FOLLOWING * timeout_s):
        entry_ns = min(run(1).elapsed_ns for _ in range(CALIBRATION_RUNS))
        enough_ns = max(target_s * 1e9, 10 * entry_ns)
        turns = FIRST_TURNS
        while not (samples := _long_runs(run, turns, enough_ns)):
            turns *= 2
        samples += [run(turns) for _ in range(repeats - len(samples))]
        return sorted(samples, key=lambda sample: sample.elapsed_ns)[:repeats]


def _long_runs(run: Callable[[int], Sample], turns: int, enough_ns: float) -> list[Sample]:
    """Return runs of equally many turns, or none when one of them is too short to be counted.

    Where other work interrupts them all, few turns look long: runs that do not agree are followed by others.
    """
    samples: list[Sample] = []
    while len(samples) < CALIBRATION_RUNS or not (_agree(samples) or len(samples) == MOST_CALIBRATION_RUNS):
        sample = run(turns)
        if sample.elapsed_ns < enough_ns:
            return []
        samples.append(sample)
    return samples


def _agree(samples: Sequence[Sample]) -> bool:
    times_ns = [sample.elapsed_ns for sample in samples[-CALIBRATION_RUNS:]]
    return max(times_ns) <= LARGEST_DIFFERENCE * min(times_ns)


def measure_code(
    code: bytes, target_s: float = 0.002, repeats: int = 1, timeout_s: float = PROBE_TIMEOUT_S
) -> list[Sample]:
    """Time a loop in a guest: `LOOP_CODE` takes about 1 ns per turn where hardware runs it, `CPUID_CODE` an exit.

    Raises OSError when /dev/kvm cannot be used, `TimeoutError` (also one) as `measure`, and `NotFoundOut`.
    """
    with open_device() as device, open_micro_guest(device) as guest:
        return measure(guest, partial(guest.run, code), target_s=target_s, repeats=repeats, timeout_s=timeout_s)


def read_facts(*, passive: bool = False) -> dict[str, Fact]:
    """Find out, question by question, what /dev/kvm can do; a question that fails leaves the others.

    With `passive` it is looked at from outside and not opened.
    """
    questions = {
        question: unknown(NOT_PROVED) if passive else find_out(ask) for question, ask in ACTIVE_QUESTIONS.items()
    }
    return {"device": find_out(partial(look_at, DEVICE)), **questions}


def _ask_api_version() -> int:
    with open_device() as device:
        return read_api_version(device)


def _ask_offers() -> dict[str, bool]:
    with open_device() as device:
        cpuid = read_supported_cpuid(device)
    return {"vmx": cpuid.offers_vmx, "svm": cpuid.offers_svm}


def _ask_shortest(code: bytes) -> dict[str, int]:
    """Return the run that was disturbed least: what else a machine does can only make it slower."""
    return measure_code(code)[0]._asdict()


ACTIVE_QUESTIONS: dict[str, Callable[[], Any]] = {
    "api_version": _ask_api_version,
    "offers": _ask_offers,
    "loop": partial(_ask_shortest, LOOP_CODE),
    "cpuid_exit": partial(_ask_shortest, CPUID_CODE),
}
