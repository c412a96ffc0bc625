"""Prove nesting end to end: a guest of this machine is a hypervisor, and runs a guest of its own, for real.

It needs no image, no operating system and no package, writes nothing, and takes some hundredths of a second.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Iterator

from .fact import Fact, NotFoundOut, find_out, unknown
from .kvm import Sample, open_device, open_micro_guest, read_supported_cpuid
from .proof import CALIBRATION_RUNS, NOT_PROVED, PROBE_TIMEOUT_S, measure

if TYPE_CHECKING:  # what follows is loaded only where KVM offers VMX or SVM: the check starts fast
    from .micro_hypervisor import MicroHypervisor

TARGET_S = 0.004  # at 1-4 µs for an exit of a guest's guest, a thousand of them and more


@contextmanager
def open_micro_hypervisor(device: int) -> Iterator[MicroHypervisor]:
    """Make a micro-guest that is a hypervisor, of the kind that KVM offers to guests here.

    Raises `NotFoundOut` where it offers none.
    """
    cpuid = read_supported_cpuid(device)
    if not (cpuid.offers_vmx or cpuid.offers_svm):
        raise NotFoundOut("KVM offers neither VMX nor SVM to guests, so none of them can be a hypervisor.")
    from .micro_hypervisor import MEMORY_SIZE

    with open_micro_guest(device, MEMORY_SIZE) as guest:
        if cpuid.offers_svm:
            from .svm import install_svm

            yield install_svm(guest, cpuid)
        else:
            from .vmx import install_vmx

            yield install_vmx(guest)


def measure_nested_exit(target_s: float = TARGET_S, repeats: int = 1, timeout_s: float = 5.0) -> list[Sample]:
    """Time the exits of a guest's guest to its hypervisor, and back; turns are exits, each checked by that hypervisor.

    Raises as `proof.measure_code` does, and `micro_hypervisor.ProofFailed` (a `NotFoundOut`) when it does not work.
    """
    with open_device() as device, open_micro_hypervisor(device) as hypervisor:
        return measure(hypervisor.guest, hypervisor.run, target_s=target_s, repeats=repeats, timeout_s=timeout_s)


def read_fact(*, passive: bool = False) -> Fact:
    """Answer whether nesting works: the value has `failure`, empty where it does. Unknown: it could not be tried."""
    return unknown(NOT_PROVED) if passive else find_out(_ask)


def _ask() -> dict[str, Any]:
    with open_device() as device, open_micro_hypervisor(device) as hypervisor:
        from .micro_hypervisor import ProofFailed

        samples: list[Sample] = []

        def run(turns: int) -> Sample:
            samples.append(hypervisor.run(turns))
            return samples[-1]

        failure, exit_code = "", None
        try:
            measure(hypervisor.guest, run, target_s=TARGET_S, repeats=CALIBRATION_RUNS, timeout_s=PROBE_TIMEOUT_S)
        except ProofFailed as reason:
            failure, exit_code = str(reason), reason.exit_code
        except TimeoutError as error:
            if not samples:
                failure = f"Of the micro-hypervisor nothing came back: {error.strerror}."
        vendor = hypervisor.vendor
        most = max((sample.turns for sample in samples), default=0)
        best = min((sample.elapsed_ns for sample in samples if sample.turns == most), default=0)
        return {
            "feature": vendor.feature,
            "is_paging_nested": vendor.is_paging_nested,
            "exits": most,
            "elapsed_ns": best,
            "exits_of_all_runs": hypervisor.l2_count,
            "exit_code": vendor.cpuid_exit_code if samples and not failure else exit_code,
            "failure": failure,
        }
