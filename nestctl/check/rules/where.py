"""Where am I: the machine, and what is above it. Pure."""

from __future__ import annotations

from nestctl.check.findings import Finding, Status
from nestctl.check.questions import is_emulated
from nestctl.check.rules.common import Rule, show
from nestctl.model.facts import Facts, Unknown


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
    if isinstance(facts.cpuid, Unknown):
        return Finding(
            name="level",
            status=Status.UNKNOWN,
            summary="whether this is a guest is unknown",
            evidence=facts.cpuid.reason,
        )
    cpuid = facts.cpuid.value
    if not cpuid.is_guest:
        return Finding(
            name="level", status=Status.INFO, summary="no hypervisor shows above", evidence="CPUID.1:ECX[31] = 0"
        )
    names = ", ".join(f"'{name}'" for name in cpuid.signatures) or "none"
    if is_emulated(facts):
        return Finding(
            name="level",
            status=Status.WARN,
            summary="this machine is itself emulated: no figure taken here is the cost of hardware",
            evidence=f"CPUID.1:ECX[31] = 1, signatures: {names}",
        )
    return Finding(
        name="level",
        status=Status.INFO,
        summary="this machine is itself a guest",
        evidence=f"CPUID.1:ECX[31] = 1, signatures: {names}",
    )


RULES: tuple[Rule, ...] = (find_machine, find_level)
