"""Which parameters of the modules bear on what a guest's VMX can do, and which only on what KVM uses itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nestctl.check.features import INTEL_FEATURES
from nestctl.check.findings import Status
from nestctl.check.recording import read_recording
from nestctl.model.facts import Facts, Known
from nestctl.model.facts_document import parse_facts

EVERYTHING = Path(__file__).parents[2] / "hosts/intel-everything"
FEATURES = {feature.name: feature for feature in INTEL_FEATURES}


def machine_with(parameter: str, value: str) -> Facts:
    """A machine whose guests are shown every feature, with one parameter of kvm_intel."""
    facts = parse_facts(read_recording(EVERYTHING).collect())
    assert isinstance(facts.modules, Known)
    module = facts.modules.value["kvm_intel"]
    module = replace(module, parameters={**module.parameters, parameter: value})
    return replace(facts, modules=Known(value={**facts.modules.value, "kvm_intel": module}))


@pytest.mark.parametrize(
    ("feature", "parameter"),
    [("tpr_shadow", "flexpriority"), ("preemption_timer", "preemption_timer"), ("pml", "pml")],
)
def test_what_only_kvm_uses_takes_nothing_from_a_guest(feature: str, parameter: str) -> None:
    finding = FEATURES[feature](machine_with(parameter, "N"))
    assert finding
    assert finding.status is Status.PASS
    assert parameter not in finding.evidence


@pytest.mark.parametrize(
    ("feature", "parameter"),
    [("shadow_vmcs", "enable_shadow_vmcs"), ("virtual_interrupts", "enable_apicv"), ("pml", "eptad")],
)
@pytest.mark.parametrize(("value", "is_there"), [("Y", True), ("N", False)])
def test_what_is_done_in_software_where_the_parameter_is_off_is_told(
    feature: str, parameter: str, value: str, is_there: bool
) -> None:
    finding = FEATURES[feature](machine_with(parameter, value))
    assert finding
    assert (finding.status is Status.PASS) == is_there
    assert f"kvm_intel.{parameter} = {value}" in finding.evidence
