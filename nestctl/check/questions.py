"""The answers to the five questions, and the readings of the facts that they share with the findings. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from nestctl.check.findings import Answer, Finding, Status, Verdict
from nestctl.model.facts import Facts, Known, Module, Unknown

# A turn of the loop is two instructions. Hardware takes 0.3-3 ns for it, QEMU's TCG 10 ns (so that KVM inside an
# emulated machine counts as KVM there, rightly), a software backend that traps or interprets 800-2,000 ns. The line
# lies between, about a factor of ten from what was measured on either side.
LONGEST_HARDWARE_TURN_NS = 100.0

# Errors of opening /dev/kvm where there is nothing to be permitted: no node, or no driver behind it.
NOTHING_THERE = frozenset({"ENOENT", "ENODEV", "ENXIO"})

# Errors by which the machine itself says that a guest cannot run now: EBUSY, another hypervisor holds VMX or SVM;
# ETIMEDOUT, a guest that needs microseconds did not end within the probe's limit.
GUEST_CANNOT_RUN = frozenset({"EBUSY", "ETIMEDOUT"})

EMULATED_SIGNATURE = "TCGTCGTCGTCG"  # how QEMU's TCG presents itself in CPUID 0x40000000 (target/i386/cpu.c)


def assess_place(facts: Facts) -> Answer:
    """Answer where this machine is: YES where that was found out, and then the reason names the place."""
    if isinstance(facts.cpuid, Unknown):
        return Answer(verdict=Verdict.UNKNOWN, reason=_say(facts.cpuid))
    if not facts.cpuid.value.is_guest:
        return Answer(verdict=Verdict.YES, reason="bare metal")
    names = ", ".join(facts.cpuid.value.signatures) or "a hypervisor that does not say its name"
    return Answer(verdict=Verdict.YES, reason=f"a guest of {names}")


def assess_quality(can_nest: Answer, findings: Sequence[Finding]) -> Answer:
    """Answer how good nesting would be, from the findings about that; NO where there would be none."""
    if can_nest.verdict is not Verdict.YES:
        return Answer(verdict=can_nest.verdict, reason=can_nest.reason)
    for status, verdict in ((Status.FAIL, Verdict.NO), (Status.UNKNOWN, Verdict.UNKNOWN)):
        if summaries := [finding.summary for finding in findings if finding.status is status]:
            return Answer(verdict=verdict, reason="; ".join(summaries))
    weak = [finding.summary for finding in findings if finding.status is Status.WARN]
    return Answer(
        verdict=Verdict.YES, reason=f"but {'; '.join(weak)}" if weak else "nothing that was looked at is weak"
    )


def assess_safety(facts: Facts) -> Answer:
    """Answer whether guests of strangers may be given VMX or SVM here."""
    del facts
    return Answer(verdict=Verdict.UNKNOWN, reason="not judged")


def assess_acceleration(facts: Facts) -> Answer:
    """Answer whether this machine can run guests at the speed of its CPU."""
    if isinstance(facts.loop, Known):
        turn_ns = facts.loop.value.ns_per_turn
        if turn_ns <= LONGEST_HARDWARE_TURN_NS:
            return Answer(
                verdict=Verdict.YES, reason=f"a guest ran machine code at {turn_ns:.1f} ns per turn of a loop"
            )
        return Answer(
            verdict=Verdict.NO,
            reason=f"a guest needs {turn_ns:,.0f} ns per turn of a loop where hardware takes about 1 ns",
        )
    verdict = Verdict.NO if facts.loop.error in NOTHING_THERE | GUEST_CANNOT_RUN else Verdict.UNKNOWN
    return Answer(verdict=verdict, reason=_say(facts.loop))


def assess_nesting(facts: Facts) -> Answer:
    """Answer whether a guest of this machine would be given VMX or SVM, to run accelerated guests itself."""
    if isinstance(facts.offers, Known):
        if feature := offered_feature(facts):
            return Answer(verdict=Verdict.YES, reason=f"KVM offers {feature.upper()} to guests")
        return Answer(verdict=Verdict.NO, reason="KVM offers neither VMX nor SVM to guests")
    if facts.offers.error in NOTHING_THERE:
        return Answer(verdict=Verdict.NO, reason=_say(facts.offers))
    module = find_backend(facts)
    if module and is_nested_enabled(module) is False:
        return Answer(verdict=Verdict.NO, reason=f"nesting is switched off in the module '{module.name}'")
    return Answer(verdict=Verdict.UNKNOWN, reason=_say(facts.offers))


def offered_feature(facts: Facts) -> str:
    """Return 'vmx' or 'svm' where KVM would give it to a guest, else ''."""
    if isinstance(facts.offers, Unknown):
        return ""
    return "vmx" if facts.offers.value.vmx else "svm" if facts.offers.value.svm else ""


def find_backend(facts: Facts) -> Module | None:
    """Return the module behind /dev/kvm, or None where none shows (it may still be built into the kernel)."""
    if isinstance(facts.modules, Unknown):
        return None
    return next((module for name, module in facts.modules.value.items() if name != "kvm"), None)


def is_nested_enabled(module: Module) -> bool | None:
    """Read the parameter `nested`: kvm_intel prints a bool (Y, N), kvm_amd an int (1, 0). None: it says neither."""
    return {"Y": True, "1": True, "N": False, "0": False}.get(module.parameters.get("nested", "").strip().upper())


def is_emulated(facts: Facts) -> bool:
    """Say whether the nearest hypervisor is known to be an emulator. One further out cannot be seen."""
    return isinstance(facts.cpuid, Known) and EMULATED_SIGNATURE in facts.cpuid.value.signatures


def _say(unknown: Unknown) -> str:
    return f"{unknown.reason} ({unknown.error})" if unknown.error else unknown.reason
