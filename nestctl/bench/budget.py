"""Whether what is to be measured fits into the time that was given for it."""

from __future__ import annotations

from collections.abc import Sequence

from nestctl.bench.level import Level, control_of
from nestctl.bench.programs import read_programs
from nestctl.bench.workloads import AGENT_WORKLOADS, DEFAULT_WORKLOADS, QUICK_WORKLOADS, choose_workloads
from nestctl.model.samples import Settings

# What a visit takes besides, by results of this project: a workload prepares its memory and files and finds its count
# in 0.005 to 0.1 s on a machine and in 0.15 to 0.25 s on an emulated one, beside a sample that is discarded; a program
# runs for a second, and starts and ends in 0.1 to 1.5 s. An emulated l3 took four to seven times as long as its l2.
_PREPARING_S = 0.1
_PREPARING_EMULATED_S = 0.2
_PROGRAM_RUNS_S = 1.0
_PROGRAM_STARTS_S = 1.0
_DEEPER = 5.0  # times as long at each emulated level below the second


def estimate_round_s(levels: Sequence[Level], settings: Settings) -> float:
    """Estimate the time of a round before there was one: every level once, and one again as the control."""
    workloads = {workload.name for workload in choose_workloads(settings.workloads)}
    asked = sum(workload.name in workloads for workload in AGENT_WORKLOADS)
    programs = sum(program.name in workloads for program in read_programs())
    sampling_s = (settings.samples + 1) * settings.target_ms / 1000
    visited = [*levels]
    if settings.has_control and levels:
        visited.append(control_of(levels))
    return sum(
        asked * (sampling_s + (_PREPARING_EMULATED_S if level.is_emulated else _PREPARING_S) * _slowness(level))
        + programs * (_PROGRAM_RUNS_S + _PROGRAM_STARTS_S * _slowness(level))
        for level in visited
    )


def _slowness(level: Level) -> float:
    return _DEEPER ** max(level.depth - 2, 0) if level.is_emulated else 1.0


def fit_to_budget(levels: Sequence[Level], settings: Settings, *, spent_s: float) -> tuple[Settings, tuple[str, ...]]:
    """Choose the quick workloads where not one round of all would end within the budget, and say so.

    `spent_s` is how much of the budget is gone. Workloads that somebody named are measured all the same.
    """
    if settings.budget_s is None or settings.workloads not in ((), DEFAULT_WORKLOADS):
        return settings, ()
    round_s, left_s = estimate_round_s(levels, settings), max(settings.budget_s - spent_s, 0.0)
    if round_s <= left_s:
        return settings, ()
    note = (
        f"Of the budget of {settings.budget_s:.0f} s there were {left_s:.0f} s left when the levels had been reached, "
        f"and a round of all workloads takes about {round_s:.0f} s: only those of --quick were measured."
    )
    return settings.model_copy(update={"workloads": QUICK_WORKLOADS}), (note,)
