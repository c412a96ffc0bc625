"""The answers to the five questions, and the readings of the facts that they share with the findings. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from nestctl.check.findings import Answer, Finding, Status, Verdict
from nestctl.check.places import NOTHING_TELLS, describe_place, name_hypervisor
from nestctl.check.processors import HARDWARE_MODULES
from nestctl.check.settings import read_bool
from nestctl.model.facts import Fact, Facts, Known, Module, NestedRun, Unknown

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
    if place := describe_place(facts):
        container = facts.container.value.name if isinstance(facts.container, Known) else ""
        inside = f", inside a container ({container})" if container else ""
        return Answer(verdict=Verdict.YES, reason=f"{place}{inside}")
    if isinstance(facts.cpuid, Unknown) and facts.cpuid.error:
        return Answer(verdict=Verdict.UNKNOWN, reason=_say(facts.cpuid))
    return Answer(verdict=Verdict.UNKNOWN, reason=NOTHING_TELLS)


def assess_quality(can_nest: Answer, findings: Sequence[Finding]) -> Answer:
    """Answer how good nesting would be, from the findings about that; NO where there would be none."""
    if can_nest.verdict is Verdict.NO:
        return Answer(verdict=Verdict.NO, reason="guests cannot nest")
    if can_nest.verdict is Verdict.UNKNOWN:
        return Answer(verdict=Verdict.UNKNOWN, reason="whether guests can nest is unknown")
    for status, verdict in ((Status.FAIL, Verdict.NO), (Status.UNKNOWN, Verdict.UNKNOWN)):
        if summaries := [finding.summary for finding in findings if finding.status is status]:
            return Answer(verdict=verdict, reason="; ".join(summaries))
    weak = [finding for finding in findings if finding.status is Status.WARN]
    if not weak:
        return Answer(verdict=Verdict.YES, reason="nothing that was looked at is weak")
    if len(weak) == 1:
        return Answer(verdict=Verdict.YES, reason=f"but {weak[0].summary}")
    return Answer(verdict=Verdict.YES, reason=f"but {len(weak)} warnings: {', '.join(it.name for it in weak)}")


def assess_safety(findings: Sequence[Finding]) -> Answer:
    """Answer whether guests of strangers may be given VMX or SVM here, from the findings about that.

    NO where one of them warns; UNKNOWN where none does, and something could not be looked at.
    """
    for statuses, verdict in (((Status.FAIL, Status.WARN), Verdict.NO), ((Status.UNKNOWN,), Verdict.UNKNOWN)):
        if summaries := [finding.summary for finding in findings if finding.status in statuses]:
            more = f" (and {len(summaries) - 1} more)" if len(summaries) > 1 else ""
            return Answer(verdict=verdict, reason=summaries[0] + more)
    return Answer(verdict=Verdict.YES, reason="nothing that was looked at is open")


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
    return Answer(verdict=verdict, reason=_say_why(facts, facts.loop))


def assess_nesting(facts: Facts) -> Answer:
    """Answer whether a guest of this machine would be given VMX or SVM, to run accelerated guests itself."""
    if isinstance(facts.architecture, Known) and not _is_x86(facts):
        return assess_architecture(facts, facts.architecture.value)
    if isinstance(facts.offers, Known):
        if feature := offered_feature(facts):
            return _assess_offer(feature, facts.nested_run)
        return Answer(verdict=Verdict.NO, reason="KVM offers neither VMX nor SVM to guests")
    if facts.offers.error in NOTHING_THERE:
        return Answer(verdict=Verdict.NO, reason=_say_why(facts, facts.offers))
    module = find_backend(facts)
    if module and is_nested_enabled(module) is False:
        return Answer(verdict=Verdict.NO, reason=f"nesting is switched off in the module '{module.name}'")
    # What another module than those for hardware gives its guests, only that module can say.
    if _has_raw_neither(facts) and (module is None or module.name in HARDWARE_MODULES.values()):
        return Answer(verdict=Verdict.NO, reason="the CPU shows neither VMX nor SVM")
    return Answer(verdict=Verdict.UNKNOWN, reason=_say(facts.offers))


def _has_raw_neither(facts: Facts) -> bool:
    """Say whether the instruction itself shows neither; the kernel's flags alone may be hidden or cleared."""
    return isinstance(facts.cpuid, Known) and shows_virtualization(facts) is False


def _assess_offer(feature: str, run: Fact[NestedRun]) -> Answer:
    """Hold what KVM offers against what a guest could do with it, where that was tried."""
    offer = f"KVM offers {feature.upper()} to guests"
    if isinstance(run, Unknown):
        return Answer(verdict=Verdict.YES, reason=offer)
    if run.value.failure:
        return Answer(verdict=Verdict.NO, reason=f"{offer}, and a guest of a guest does not run: {run.value.failure}")
    figures = f"{run.value.exits:,} exits at {run.value.ns_per_exit:,.0f} ns each"
    return Answer(verdict=Verdict.YES, reason=f"{offer}, and a guest of a guest ran machine code, {figures}")


def assess_architecture(facts: Facts, architecture: str) -> Answer:
    """Answer the same for s390x, ppc64le and arm64, whose KVM says it in ways of its own.

    Sources: Documentation/virt/kvm/x86/running-nested-guests.rst and arch/s390/kvm/kvm-s390.c (s390x),
    KVM_CAP_PPC_NESTED_HV and KVM_CAP_ARM_EL2 in Documentation/virt/kvm/api.rst.
    """
    if isinstance(facts.api_version, Unknown) and facts.api_version.error in NOTHING_THERE:
        return Answer(verdict=Verdict.NO, reason=_say(facts.api_version))
    if architecture == "s390x":
        return _assess_s390(facts)
    capability = {"ppc64le": "PPC_NESTED_HV", "ppc64": "PPC_NESTED_HV", "aarch64": "ARM_EL2"}.get(architecture)
    if capability is None:
        return Answer(verdict=Verdict.UNKNOWN, reason=f"how KVM nests on {architecture} is not known to nestctl")
    if isinstance(facts.capabilities, Unknown):
        return Answer(verdict=Verdict.UNKNOWN, reason=_say(facts.capabilities))
    size = facts.capabilities.value.get(capability, 0)
    reason = f"KVM_CAP_{capability} is {size}"
    return Answer(verdict=Verdict.YES if size > 0 else Verdict.NO, reason=reason)


def _assess_s390(facts: Facts) -> Answer:
    """An L1 of s390x needs the processor's 'sie' itself, and `nested` of the module kvm, which excludes `hpage`."""
    if isinstance(facts.cpu_flags, Known) and "sie" not in facts.cpu_flags.value:
        return Answer(verdict=Verdict.NO, reason="the processor shows no 'sie'")
    parameters = facts.modules.value["kvm"].parameters if _has_kvm(facts) and isinstance(facts.modules, Known) else {}
    if "nested" not in parameters:
        return Answer(verdict=Verdict.UNKNOWN, reason="the module 'kvm' shows no parameter 'nested'")
    is_on = read_bool(parameters["nested"])
    if is_on is None:
        return Answer(verdict=Verdict.UNKNOWN, reason=f"kvm.nested is '{parameters['nested']}'")
    return Answer(verdict=Verdict.YES if is_on else Verdict.NO, reason=f"kvm.nested is {parameters['nested']}")


def _has_kvm(facts: Facts) -> bool:
    return isinstance(facts.modules, Known) and "kvm" in facts.modules.value


def _is_x86(facts: Facts) -> bool:
    """A machine that does not say its architecture counts as one: it is asked what such a machine is asked."""
    return not isinstance(facts.architecture, Known) or facts.architecture.value in ("x86_64", "")


def offered_feature(facts: Facts) -> str:
    """Return 'vmx' or 'svm' where KVM would give it to a guest, else ''."""
    if isinstance(facts.offers, Unknown):
        return ""
    return "vmx" if facts.offers.value.vmx else "svm" if facts.offers.value.svm else ""


def find_backend(facts: Facts) -> Module | None:
    """Return the module behind /dev/kvm, or None where none shows (it may still be built into the kernel).

    A kernel with everything built in shows the other vendor's module too, and one for no hardware beside both.
    """
    if isinstance(facts.modules, Unknown):
        return None
    modules = {name: module for name, module in facts.modules.value.items() if name != "kvm"}
    own = HARDWARE_MODULES.get(facts.cpuid.value.vendor, "") if isinstance(facts.cpuid, Known) else ""
    if own in modules and shows_virtualization(facts) is not False:
        return modules[own]
    others = sorted(name for name in modules if name not in HARDWARE_MODULES.values())
    if others:
        return modules["kvm_hv" if "kvm_hv" in others else others[0]]
    foreign = [module for module in modules.values() if not (own and module.is_built_in and module.name != own)]
    return foreign[0] if foreign else None


def shows_virtualization(facts: Facts) -> bool | None:
    """Say whether an x86 CPU shows VMX or SVM, to the instruction or to the kernel; None where neither is known."""
    if not _is_x86(facts):
        return None
    if isinstance(facts.cpuid, Known):
        return facts.cpuid.value.has_vmx or facts.cpuid.value.has_svm
    if isinstance(facts.cpu_flags, Known):
        return bool(facts.cpu_flags.value & {"vmx", "svm"})
    return None


def is_nested_enabled(module: Module) -> bool | None:
    """Read the parameter `nested`: kvm_intel prints a bool (Y, N), kvm_amd an int (1, 0). None: it says neither."""
    return read_bool(module.parameters.get("nested", ""))


def is_emulated(facts: Facts) -> bool:
    """Say whether the nearest hypervisor is known to be an emulator. One further out cannot be seen."""
    if isinstance(facts.cpuid, Known) and EMULATED_SIGNATURE in facts.cpuid.value.signatures:
        return True
    return name_hypervisor(facts) == "Bochs"  # which has no signature, and its name in the firmware


def _say(unknown: Unknown) -> str:
    return f"{unknown.reason} ({unknown.error})" if unknown.error else unknown.reason


def _say_why(facts: Facts, unknown: Unknown) -> str:
    """Say the cause before the consequence, where there is no KVM because there is nothing for it to use."""
    if unknown.error in NOTHING_THERE and shows_virtualization(facts) is False:
        return f"the CPU shows neither VMX nor SVM, and {_say(unknown)}"
    return _say(unknown)
