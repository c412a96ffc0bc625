"""Judge the facts of a machine. Pure: no file is read here and no device opened."""

from __future__ import annotations

from dataclasses import replace

from nestctl.check.findings import AcceleratorChoice, Answer, Assessment, Finding, Question, Verdict
from nestctl.check.questions import (
    assess_acceleration,
    assess_nesting,
    assess_place,
    assess_quality,
    assess_safety,
    is_emulated,
    offered_feature,
)
from nestctl.check.rules import RULES_BY_QUESTION
from nestctl.model.facts import Accelerator, Facts, Known


def assess(facts: Facts) -> Assessment:
    """Judge one machine: every rule once, then the answers, for guests of one's own.

    `nestctl.check.report.count_safety` makes safety part of the verdict.
    """
    can_accelerate, can_nest = assess_acceleration(facts), assess_nesting(facts)
    findings = {question: _find(question, facts) for question in RULES_BY_QUESTION}
    return Assessment(
        where_am_i=assess_place(facts),
        can_accelerate=can_accelerate,
        can_nest=can_nest,
        nests_well=assess_quality(can_nest, findings[Question.QUALITY]),
        safe_for_tenants=assess_safety(findings[Question.SAFETY]),
        is_emulated=is_emulated(facts),
        choice=_choose(facts, can_accelerate, can_nest),
        findings=tuple(finding for group in findings.values() for finding in group),
    )


def _find(question: Question, facts: Facts) -> tuple[Finding, ...]:
    found = (rule(facts) for rule in RULES_BY_QUESTION[question])
    return tuple(replace(finding, question=question) for finding in found if finding)


def _choose(facts: Facts, can_accelerate: Answer, can_nest: Answer) -> AcceleratorChoice | None:
    """Choose KVM only where both questions are answered yes; a lab whose guests cannot nest is none.

    The other way is QEMU's TCG, which emulates SVM (and no VMX) for x86 guests.
    """
    if can_accelerate.verdict is can_nest.verdict is Verdict.YES:
        return AcceleratorChoice(
            accelerator=Accelerator.KVM,
            cpu_feature=offered_feature(facts),
            is_machine_emulated=is_emulated(facts),
            reason=f"{can_accelerate.reason}, and {can_nest.reason}",
        )
    if not (isinstance(facts.architecture, Known) and facts.architecture.value == "x86_64"):
        return None
    obstacle = can_nest if can_accelerate.verdict is Verdict.YES else can_accelerate
    return AcceleratorChoice(
        accelerator=Accelerator.TCG,
        cpu_feature="svm",
        is_machine_emulated=is_emulated(facts),
        reason=obstacle.reason,
    )
