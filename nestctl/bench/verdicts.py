"""What 'nestctl check' says of each level: a part of its fingerprint, for figures of a level that nests badly."""

from __future__ import annotations

from collections.abc import Sequence

from nestctl.adapters.agent import run_agent
from nestctl.bench.level import Level
from nestctl.check import judge
from nestctl.deadline import Deadline
from nestctl.errors import NestctlError

# One look, at an emulated guest of an emulated guest.
_LOOK_S = 180.0


def read_verdicts(levels: Sequence[Level]) -> dict[str, dict[str, str]]:
    """Check every level, by its name: the answers to the questions about KVM. A level that does not say has none."""
    return {level.name: _read(level) for level in levels}


def _read(level: Level) -> dict[str, str]:
    deadline = Deadline.after(_LOOK_S, f"Checking '{level.name}'")
    try:
        assessment = judge(run_agent(level.shell, ["facts"], deadline=deadline)).assessment
    except NestctlError:
        return {}
    return {
        "check.can_accelerate": assessment.can_accelerate.verdict.value,
        "check.can_nest": assessment.can_nest.verdict.value,
        "check.nests_well": assessment.nests_well.verdict.value,
    }
