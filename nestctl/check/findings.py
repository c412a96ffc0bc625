"""The form of what the check says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nestctl.errors import ExitCode
from nestctl.model.facts import Accelerator


class Verdict(StrEnum):
    """An answer; UNKNOWN is that of a question that could not be looked into, never that of a bad machine."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"

    @property
    def exit_code(self) -> ExitCode:
        """What a process ends with that only asked this: 0, 1 or 3."""
        return {Verdict.YES: ExitCode.OK, Verdict.NO: ExitCode.NO, Verdict.UNKNOWN: ExitCode.NOT_FOUND_OUT}[self]


class Status(StrEnum):
    """How a finding counts: WARN and FAIL with `--strict`; FAIL and UNKNOWN decide whether nesting is good.

    Whether it is safe for tenants WARN decides, too. INFO is worth knowing and changes nothing.
    """

    PASS = "pass"  # noqa: S105 - a status, no password
    INFO = "info"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Question(StrEnum):
    """The five questions; the value is the key of the answer in the JSON document."""

    WHERE = "where_am_i"
    ACCELERATION = "can_accelerate"
    OFFER = "can_nest"
    QUALITY = "nests_well"
    SAFETY = "safe_for_tenants"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at: a sentence, what was seen, and the command or deed that changes it.

    `question` is filled in by `assess`, from the group the rule is in.
    """

    name: str
    status: Status
    summary: str
    evidence: str
    fix: str = ""
    question: Question | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A verdict with its reason, which stands after a colon: no capital, no full stop."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True, kw_only=True)
class AcceleratorChoice:
    """How labs will run here; `cpu_feature` ('vmx' or 'svm') is what their guests need to be hypervisors themselves.

    `is_machine_emulated` says that this machine is itself emulated, so that its KVM is slow, too.
    """

    accelerator: Accelerator
    cpu_feature: str
    is_machine_emulated: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """Five questions answered, what follows for labs, and what the answers rest on.

    `where_am_i` is YES where the place was found out; its reason names it. `choice` is None where labs cannot run at
    all. `counts_safety` says whether the guests are those of strangers, so that safety is part of the verdict.
    """

    where_am_i: Answer
    can_accelerate: Answer
    can_nest: Answer
    nests_well: Answer
    safe_for_tenants: Answer
    is_emulated: bool
    choice: AcceleratorChoice | None
    findings: tuple[Finding, ...]
    counts_safety: bool = False

    @property
    def decisive(self) -> tuple[Answer, ...]:
        """The answers that make the verdict."""
        return (self.can_accelerate, self.can_nest, *([self.safe_for_tenants] if self.counts_safety else []))

    @property
    def verdict(self) -> Verdict:
        """Guests can nest with hardware help only if every decisive question is answered yes; one no makes it no."""
        verdicts = {answer.verdict for answer in self.decisive}
        return next((verdict for verdict in (Verdict.NO, Verdict.UNKNOWN) if verdict in verdicts), Verdict.YES)

    def exit_code(self, *, is_strict: bool = False) -> ExitCode:
        """Return what the process ends with; where it is strict, a yes with a warning behind it is a no.

        Warnings about safety are none where guests are one's own.
        """
        bad = (Status.WARN, Status.FAIL)
        counted = (it for it in self.findings if it.question is not Question.SAFETY or self.counts_safety)
        if is_strict and self.verdict is Verdict.YES and any(finding.status in bad for finding in counted):
            return ExitCode.NO
        return self.verdict.exit_code

    @property
    def answers(self) -> dict[Question, Answer]:
        """All five answers, in the order in which they are told."""
        return {question: getattr(self, question) for question in Question}

    def findings_of(self, question: Question) -> tuple[Finding, ...]:
        """Return the findings of one question, in the order of its rules."""
        return tuple(finding for finding in self.findings if finding.question is question)
