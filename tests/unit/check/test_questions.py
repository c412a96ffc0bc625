"""What is answered where KVM itself could not be asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nestctl.check.assess import assess
from nestctl.check.findings import Verdict
from nestctl.check.questions import assess_nesting
from nestctl.check.recording import read_recording
from nestctl.errors import ExitCode
from nestctl.model.facts import Facts, Known, Module, Unknown
from nestctl.model.facts_document import parse_facts

HOSTS = Path(__file__).parents[2] / "hosts"
PASSIVE = Unknown(reason="It was not tried: --passive only reads.")
DENIED = Unknown(reason="/dev/kvm: Permission denied", error="EACCES")


def neither(answer: Unknown, backend: str = "") -> Facts:
    """A machine whose CPUID shows neither VMX nor SVM, and whose KVM gave no answer."""
    facts = parse_facts(read_recording(HOSTS / "passive-without-vmx").collect())
    modules = {name: Module(name=name, is_built_in=True, parameters={}) for name in ("kvm", backend) if name}
    return replace(facts, offers=answer, api_version=answer, loop=answer, modules=Known(value=modules))


@pytest.mark.parametrize("answer", [PASSIVE, DENIED], ids=["passive", "denied"])
@pytest.mark.parametrize(
    ("backend", "verdict"),
    [("", Verdict.NO), ("kvm_intel", Verdict.NO), ("kvm_pvm", Verdict.UNKNOWN)],
)
def test_a_processor_without_both_says_no_unless_software_serves_kvm(
    answer: Unknown, backend: str, verdict: Verdict
) -> None:
    facts = neither(answer, backend)
    assert assess_nesting(facts).verdict is verdict
    assert assess(facts).exit_code() is (ExitCode.NO if verdict is Verdict.NO else ExitCode.NOT_FOUND_OUT)


def test_the_kernel_s_flags_alone_do_not_say_no() -> None:
    """They are cleared where the firmware is in the way; only the instruction shows what there is."""
    facts = replace(neither(DENIED), cpuid=PASSIVE)
    assert assess_nesting(facts).verdict is Verdict.UNKNOWN
