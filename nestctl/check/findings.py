"""The form of what the check says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nestctl.errors import ExitCode
from nestctl.model.facts import Accelerator


class Verdict(StrEnum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"

    @property
    def exit_code(self) -> ExitCode:
        return {Verdict.YES: ExitCode.OK, Verdict.NO: ExitCode.NO, Verdict.UNKNOWN: ExitCode.NOT_FOUND_OUT}[self]


class Status(StrEnum):
    PASS = "pass"  # noqa: S105 - a status, no password
    INFO = "info"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at: a sentence, what was seen, and the command or deed that changes it."""

    name: str
    status: Status
    summary: str
    evidence: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    verdict: Verdict
    reason: str


@dataclass(frozen=True, kw_only=True)
class AcceleratorChoice:
    """How labs will run here; `cpu_feature` ('vmx' or 'svm') is what their guests need to be hypervisors themselves."""

    accelerator: Accelerator
    cpu_feature: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """Two questions answered, what follows for labs, and what the answers rest on.

    `choice` is None where labs cannot run at all.
    """

    can_accelerate: Answer
    can_nest: Answer
    is_emulated: bool
    choice: AcceleratorChoice | None
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """Guests can nest with hardware help only if both questions are answered yes; one no is enough for no."""
        verdicts = {self.can_accelerate.verdict, self.can_nest.verdict}
        return next((verdict for verdict in (Verdict.NO, Verdict.UNKNOWN) if verdict in verdicts), Verdict.YES)
