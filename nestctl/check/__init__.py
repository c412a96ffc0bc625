"""Whether nested virtualization works on a machine, proved by running code there."""

from __future__ import annotations

from nestctl.agent.facts import read_facts
from nestctl.check.assess import assess
from nestctl.check.findings import AcceleratorChoice
from nestctl.check.report import Report, render_choice
from nestctl.errors import PrerequisiteError
from nestctl.model.facts_document import parse_facts


def check_this_machine(*, passive: bool = False) -> Report:
    """Look at this machine and judge it; with `passive`, /dev/kvm is not opened.

    Takes some hundredths of a second, at most two seconds where guests hang. Only the main thread may call it.
    """
    collected = read_facts(passive=passive)
    return Report(assessment=assess(parse_facts(collected)), collected=collected)


def choose_accelerator() -> AcceleratorChoice:
    """Choose how labs run here, by running code. Raises `PrerequisiteError` where they cannot run at all."""
    assessment = check_this_machine().assessment
    if assessment.choice is None:
        raise PrerequisiteError(
            f"Labs {render_choice(assessment)}.",
            hint="Run 'nestctl check': it names what is missing and how to fix it.",
        )
    return assessment.choice
