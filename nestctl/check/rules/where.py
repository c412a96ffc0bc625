"""Where am I: the machine, what is above it, and what its owner can do there. Pure."""

from __future__ import annotations

from nestctl.check.findings import Finding, Status
from nestctl.check.places import (
    NOTHING_TELLS,
    describe_place,
    find_hidden_evidence,
    find_place,
    is_guest,
    name_hypervisor,
    rules_hypervisor,
)
from nestctl.check.questions import is_emulated, shows_virtualization
from nestctl.check.rules.common import Rule, show
from nestctl.model.facts import Facts, Known, Unknown


def find_machine(facts: Facts) -> Finding:
    """Name the machine the other findings are about."""
    return Finding(
        name="machine",
        status=Status.INFO,
        summary=f"{show(facts.cpu_model)}, CPUs: {show(facts.cpu_count)}, memory: {show(facts.memory_mib)} MiB",
        evidence=f"Linux {show(facts.kernel)} on {show(facts.architecture)}",
    )


def find_level(facts: Facts) -> Finding:
    """Say whether this machine is a guest, and whose. Source of the leaves: nestctl.agent.cpuid."""
    if is_guest(facts) is None and isinstance(facts.cpuid, Unknown):
        evidence = facts.cpuid.reason if facts.cpuid.error else NOTHING_TELLS
        return Finding(
            name="level", status=Status.UNKNOWN, summary="whether this is a guest is unknown", evidence=evidence
        )
    hidden = find_hidden_evidence(facts)
    evidence = "; ".join(part for part in (_level_evidence(facts), hidden) if part)
    if not is_guest(facts):
        return Finding(name="level", status=Status.INFO, summary="no hypervisor shows above", evidence=evidence)
    if is_emulated(facts):
        return Finding(
            name="level",
            status=Status.WARN,
            summary="this machine is itself emulated: no figure taken here is the cost of hardware",
            evidence=evidence,
        )
    if hidden:
        return Finding(
            name="level",
            status=Status.WARN,
            summary=f"this is a guest of {name_hypervisor(facts)}, and the hypervisor hides itself",
            evidence=evidence,
        )
    return Finding(name="level", status=Status.INFO, summary=f"this is {describe_place(facts)}", evidence=evidence)


def _level_evidence(facts: Facts) -> str:
    if isinstance(facts.cpuid, Known):
        cpuid = facts.cpuid.value
        names = ", ".join(f"'{name}'" for name in cpuid.signatures) or "none"
        bit = f"CPUID.1:ECX[31] = {cpuid.is_guest:d}"
        return f"{bit}, signatures: {names}" if cpuid.is_guest else bit
    if isinstance(facts.s390_hypervisor, Known):
        return f"/proc/sysinfo: '{facts.s390_hypervisor.value or 'no control program'}'"
    if isinstance(facts.device_tree_hypervisor, Known):
        return f"/proc/device-tree/hypervisor/compatible: '{facts.device_tree_hypervisor.value}'"
    if isinstance(facts.cpu_platform, Known):
        return f"/proc/cpuinfo: platform '{facts.cpu_platform.value}'"
    return f"/sys/class/dmi/id: {', '.join(facts.dmi.value.values()) if isinstance(facts.dmi, Known) else 'nothing'}"


def find_place_advice(facts: Facts) -> Finding | None:
    """Say how a guest gets VMX or SVM in the cloud or hypervisor it runs in; the flag itself decides."""
    place = find_place(facts) if is_guest(facts) and not rules_hypervisor(facts) else None
    shows = shows_virtualization(facts)
    if place is None or shows is None:
        return None
    dmi = facts.dmi.value if isinstance(facts.dmi, Known) else {}
    evidence = ", ".join(f"{field} '{value}'" for field, value in dmi.items() if value) or "no DMI"
    if shows:
        return Finding(
            name="place",
            status=Status.PASS,
            summary=f"{place.name} gives this machine VMX or SVM",
            evidence=evidence,
        )
    return Finding(
        name="place",
        status=Status.WARN,
        summary=f"{place.name} gives this machine neither VMX nor SVM",
        evidence=evidence,
        fix=place.advice,
    )


def find_metal(facts: Facts) -> Finding | None:
    """Say that a cloud has given the machine itself, with all that its processor can do."""
    place = find_place(facts)
    if place is None or not place.is_cloud or is_guest(facts) is not False:
        return None
    dmi = facts.dmi.value if isinstance(facts.dmi, Known) else {}
    return Finding(
        name="place",
        status=Status.INFO,
        summary=f"{place.name} has given this machine without a hypervisor above",
        evidence=f"CPUID.1:ECX[31] = 0, product_name '{dmi.get('product_name', '')}'",
    )


def find_container(facts: Facts) -> Finding | None:
    """Say that this is a container: what is missing here may be there outside."""
    if isinstance(facts.container, Unknown) or not facts.container.value.name:
        return None
    container = facts.container.value
    is_missing = isinstance(facts.device, Unknown) and facts.device.error == "ENOENT"
    return Finding(
        name="container",
        status=Status.WARN if is_missing else Status.INFO,
        summary=(
            f"this is a container ({container.name}); "
            + ("it has not been given /dev/kvm" if is_missing else "modules and settings are those of its host")
        ),
        evidence=container.evidence,
        fix="Start the container with '--device /dev/kvm'." if is_missing else "",
    )


def find_xen(facts: Facts) -> Finding | None:
    """Say that Xen has this machine, so that KVM cannot have it."""
    if isinstance(facts.is_xen_dom0, Unknown) or not facts.is_xen_dom0.value:
        return None
    return Finding(
        name="xen",
        status=Status.FAIL,
        summary="Xen runs this machine (this is dom0), and KVM cannot",
        evidence="/sys/hypervisor/properties/features, bit 11; or /proc/xen/capabilities: control_d",
        fix="Use Xen's own nesting (nestedhvm=1), or boot Linux without Xen.",
    )


def find_lockdown(facts: Facts) -> Finding | None:
    """Say that the kernel is locked: out-of-tree modules stay out, and MSRs are not written."""
    mode = facts.lockdown.value if isinstance(facts.lockdown, Known) else "none"
    is_secure = isinstance(facts.secure_boot, Known) and facts.secure_boot.value
    if mode == "none" and not is_secure:
        return None
    return Finding(
        name="lockdown",
        status=Status.INFO,
        summary="the kernel takes signed modules only; KVM and its parameters are not affected",
        evidence=f"lockdown '{mode}', Secure Boot {'on' if is_secure else 'off or unknown'}",
    )


RULES: tuple[Rule, ...] = (
    find_machine,
    find_level,
    find_place_advice,
    find_metal,
    find_container,
    find_xen,
    find_lockdown,
)
