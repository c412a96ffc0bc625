"""Whether nested virtualization works on a machine, proved by running code there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestctl.agent.facts import read_facts
from nestctl.check.assess import assess
from nestctl.check.findings import AcceleratorChoice
from nestctl.check.report import Report, render_choice
from nestctl.errors import PrerequisiteError
from nestctl.model.facts_document import parse_facts


def check_this_machine(*, passive: bool = False, record: bool = False) -> Report:
    """Look at this machine and judge it; with `passive`, /dev/kvm is not opened and no program started.

    Takes some hundredths of a second, fifteen seconds where guests hang at once. Only the main thread may call it.
    """
    return judge(read_facts(passive=passive, record=record))


def check_recording(path: Path) -> Report:
    """Judge a recorded machine: a directory, or a .tar.gz of one. Raises `UsageError` when it is none."""
    from nestctl.check.recording import read_recording

    return judge(read_recording(path).collect())


def judge(collected: Mapping[str, Any]) -> Report:
    """Judge what an agent printed, here or elsewhere. Raises `NotFoundOutError` when it is something else."""
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
