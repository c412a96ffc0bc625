"""What speaks against giving untrusted guests VMX or SVM on this machine, and whether it is accepted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nestctl.check import check_this_machine
from nestctl.check.explain import load_explanations
from nestctl.check.findings import Finding, Question, Status
from nestctl.errors import PrerequisiteError
from nestctl.model.lab import Lab

_SAFETY = "safety."

# https://www.qemu.org/docs/master/system/security.html, "Non-virtualization Use Case".
_EMULATED = Finding(
    name="safety.tcg",
    status=Status.WARN,
    summary="the guests would be emulated, and QEMU's TCG is not meant to keep a guest in",
    evidence="no KVM that guests can nest with",
    fix="",
)


@dataclass(frozen=True, kw_only=True)
class Risk:
    """A finding of `check --untrusted`: `status` is 'warn', 'fail', or 'unknown' where it could not be looked at."""

    name: str
    status: str
    summary: str
    fix: str
    is_accepted: bool

    @property
    def is_open(self) -> bool:
        """Tell whether it keeps guests from being given VMX or SVM; what is not known does not."""
        return self.status != Status.UNKNOWN and not self.is_accepted


def read_risks(lab: Lab, *, is_emulated: bool) -> tuple[Risk, ...]:
    """Look at this machine, when a lab has untrusted guests that may nest; nothing is looked at for others.

    Only the main thread may call it.
    """
    if lab.trust != "untrusted" or not any(guest.is_hypervisor for guest in lab.guests.values()):
        return ()
    findings = check_this_machine(passive=True).assessment.findings_of(Question.SAFETY)
    return judge_risks((*findings, *([_EMULATED] if is_emulated else [])), lab.accepted_risks)


def judge_risks(findings: Iterable[Finding], accepted: Iterable[str]) -> tuple[Risk, ...]:
    """Keep what speaks against it, and say of each whether it is accepted."""
    names = set(accepted)
    return tuple(
        Risk(name=it.name, status=it.status.value, summary=it.summary, fix=it.fix, is_accepted=it.name in names)
        for it in findings
        if it.status in (Status.WARN, Status.FAIL, Status.UNKNOWN)
    )


def list_unknown_risks(accepted: Iterable[str]) -> Iterator[tuple[int, str, str]]:
    """Yield which of the accepted risks are no findings: its index, its name, and a hint at what may be meant."""
    known = [it for name in (*load_explanations(), _EMULATED.name) if (it := name.removeprefix(_SAFETY)) != name]
    for index, name in enumerate(accepted):
        given = name.removeprefix(_SAFETY)
        if given not in known:
            # Compared without what all have in common.
            near = difflib.get_close_matches(given, known, n=1)
            said = (
                f"Did you mean '{_SAFETY}{near[0]}'?" if near else f"Known: {', '.join(_SAFETY + it for it in known)}."
            )
            yield index, name, said


def describe_risk(risk: Risk) -> str:
    """Say a risk in a line."""
    how = "accepted" if risk.is_accepted else "not known" if risk.status == Status.UNKNOWN else "open"
    return f"{risk.name} ({how}): {risk.summary}"


def check_risks(risks: Iterable[Risk]) -> None:
    """Raise `PrerequisiteError` when there is a risk that nobody has accepted."""
    if found := [risk for risk in risks if risk.is_open]:
        said = "\n".join(f"  {describe_risk(risk)}" for risk in found)
        names = ", ".join(risk.name for risk in found)
        raise PrerequisiteError(
            f"This machine is no place for untrusted guests that may nest:\n{said}",
            hint="'nestctl check --untrusted' says more, and how to fix it. When you take it on you, write "
            f"'accepted_risks: [{names}]' into the lab file; 'nesting: false' keeps a guest from nesting.",
        )
