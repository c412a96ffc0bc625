"""Judge the facts of a machine. Pure: no file is read here and no device opened."""

from __future__ import annotations

from nestctl.check.findings import AcceleratorChoice, Answer, Assessment, Verdict
from nestctl.check.questions import assess_acceleration, assess_nesting, is_emulated, offered_feature
from nestctl.check.rules import RULES
from nestctl.model.facts import Accelerator, Facts, Known


def assess(facts: Facts) -> Assessment:
    can_accelerate, can_nest = assess_acceleration(facts), assess_nesting(facts)
    return Assessment(
        can_accelerate=can_accelerate,
        can_nest=can_nest,
        is_emulated=is_emulated(facts),
        choice=_choose(facts, can_accelerate, can_nest),
        findings=tuple(finding for rule in RULES if (finding := rule(facts))),
    )


def _choose(facts: Facts, can_accelerate: Answer, can_nest: Answer) -> AcceleratorChoice | None:
    """Choose KVM only where both questions are answered yes; a lab whose guests cannot nest is none.

    The other way is QEMU's TCG, which emulates SVM (and no VMX) for x86 guests.
    """
    if can_accelerate.verdict is can_nest.verdict is Verdict.YES:
        return AcceleratorChoice(
            accelerator=Accelerator.KVM,
            cpu_feature=offered_feature(facts),
            reason=f"{can_accelerate.reason}, and {can_nest.reason}",
        )
    if not (isinstance(facts.architecture, Known) and facts.architecture.value == "x86_64"):
        return None
    obstacle = can_nest if can_accelerate.verdict is Verdict.YES else can_accelerate
    return AcceleratorChoice(accelerator=Accelerator.TCG, cpu_feature="svm", reason=obstacle.reason)
