"""Would a guest of mine get VMX or SVM. Pure."""

from __future__ import annotations

from nestctl.check.findings import Finding, Status
from nestctl.check.questions import find_backend, is_nested_enabled, offered_feature
from nestctl.check.rules.common import Rule, unknown_finding
from nestctl.model.facts import Facts, Module, Unknown


def find_nested_parameter(facts: Facts) -> Finding | None:
    """Judge the parameter that lets guests be hypervisors. It cannot be changed while the module is loaded."""
    module = find_backend(facts)
    if module is None or "nested" not in module.parameters:
        return None
    evidence = f"/sys/module/{module.name}/parameters/nested is '{module.parameters['nested']}'"
    enabled = is_nested_enabled(module)
    if enabled is None:
        return Finding(
            name="nested.parameter",
            status=Status.UNKNOWN,
            summary="whether nesting is on is unknown",
            evidence=evidence,
        )
    if enabled:
        return Finding(
            name="nested.parameter", status=Status.PASS, summary=f"nesting is on in {module.name}", evidence=evidence
        )
    return Finding(
        name="nested.parameter",
        status=Status.FAIL,
        summary=f"nesting is switched off in {module.name}",
        evidence=evidence,
        fix=_nested_fix(module),
    )


def find_nested_offered(facts: Facts) -> Finding | None:
    """Judge what KVM itself would give a guest: hardware, firmware, backend and parameter in one answer."""
    if facts.offers == facts.api_version:
        return None  # the device did not open, and its own finding says why
    if isinstance(facts.offers, Unknown):
        return unknown_finding("nested.offered", "what a guest would be given", facts.offers)
    feature = offered_feature(facts)
    evidence = f"KVM_GET_SUPPORTED_CPUID: VMX {facts.offers.value.vmx:d}, SVM {facts.offers.value.svm:d}"
    return Finding(
        name="nested.offered",
        status=Status.PASS if feature else Status.FAIL,
        summary=f"guests are given {feature.upper()}" if feature else "guests are given neither VMX nor SVM",
        evidence=evidence,
    )


RULES: tuple[Rule, ...] = (find_nested_parameter, find_nested_offered)


def _nested_fix(module: Module) -> str:
    if module.is_built_in:
        return f"Add {module.name}.nested=1 to the kernel's boot line and boot again."
    # With every guest stopped: a module that is in use cannot be removed.
    return (
        f"echo 'options {module.name} nested=1' | sudo tee /etc/modprobe.d/nestctl.conf && "
        f"sudo modprobe -r {module.name} && sudo modprobe {module.name}"
    )
