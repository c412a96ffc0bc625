"""What the check prints: a table for people, a versioned document for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from nestctl.check.findings import Answer, Assessment, Question, Status, Verdict
from nestctl.model.facts import Accelerator

SUMMARY_INDENT = 20  # columns before the text of a line of the summary

REPORT_SCHEMA = "nestctl.check/2"

HEADLINES = {
    Verdict.YES: "guests of this machine can nest with hardware help",
    Verdict.NO: "guests of this machine cannot nest with hardware help",
    Verdict.UNKNOWN: "whether guests of this machine can nest could not be found out",
}

SAFE_HEADLINES = {
    Verdict.YES: "guests of strangers can nest here with hardware help",
    Verdict.NO: "guests of strangers cannot nest here, or should not",
    Verdict.UNKNOWN: "whether guests of strangers can, and may, nest here could not be found out",
}

TITLES = {
    Question.WHERE: "where am I",
    Question.ACCELERATION: "accelerated guests",
    Question.OFFER: "nesting",
    Question.QUALITY: "good nesting",
    Question.SAFETY: "safe for tenants",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """An assessment with the raw answers it rests on, as the agent printed them ('tree' among them when recorded)."""

    assessment: Assessment
    collected: Mapping[str, Any]


def count_safety(report: Report) -> Report:
    """Judge for guests of strangers: what is not safe is a failure then, and part of the verdict."""
    findings = tuple(
        replace(finding, status=Status.FAIL)
        if finding.question is Question.SAFETY and finding.status is Status.WARN
        else finding
        for finding in report.assessment.findings
    )
    return replace(report, assessment=replace(report.assessment, findings=findings, counts_safety=True))


def render_json(report: Report) -> dict[str, Any]:
    """Return the document of `nestctl check --json`. Its keys only change with the number in `schema`."""
    assessment = report.assessment
    return {
        "schema": REPORT_SCHEMA,
        "verdict": assessment.verdict,
        "summary": _headline(assessment),
        "counts_safety": assessment.counts_safety,
        "is_emulated": assessment.is_emulated,
        "questions": {question: asdict(answer) for question, answer in assessment.answers.items()},
        "lab": asdict(assessment.choice) if assessment.choice else None,
        "findings": [asdict(finding) for finding in assessment.findings],
        "facts": {key: section for key, section in report.collected.items() if key != "tree"},
    }


def render_summary(assessment: Assessment) -> str:
    """Say in a few lines what the findings come to."""
    lines = [
        f"verdict             {assessment.verdict.upper()}: {_headline(assessment)}",
        *(
            f"{TITLES[question]:18}  {render_verdict(question, answer, ': ')}{answer.reason}"
            for question, answer in assessment.answers.items()
        ),
        f"labs here           {render_choice(assessment)}",
    ]
    if assessment.is_emulated:
        lines.append(
            "this machine        is itself EMULATED: what counts as its hardware is software, and so are its figures"
        )
    return "\n".join(lines)


def render_verdict(question: Question, answer: Answer, end: str) -> str:
    """Say yes, no or unknown, with `end` behind it; a place that is known is no yes."""
    return "" if question is Question.WHERE and answer.verdict is Verdict.YES else f"{answer.verdict}{end}"


def _headline(assessment: Assessment) -> str:
    return (SAFE_HEADLINES if assessment.counts_safety else HEADLINES)[assessment.verdict]


def render_choice(assessment: Assessment) -> str:
    """Say how labs will run; that they are emulated is said loudly, because nothing is fast then."""
    choice = assessment.choice
    if choice is None:
        return "cannot run: hardware help is not proved, and only x86_64 can be emulated with nesting"
    feature = choice.cpu_feature.upper()
    if choice.accelerator is Accelerator.KVM:
        return f"run on KVM; their guests are given {feature}"
    unless = ", unless KVM proves to be usable" if assessment.verdict is Verdict.UNKNOWN else ""
    return f"run EMULATED (QEMU's TCG with {feature}), correctly but many times slower than on hardware{unless}"
