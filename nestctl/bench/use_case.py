"""Measure a lab that is up, and write down what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nestctl.bench.html import Written, write_results
from nestctl.bench.run import Step, longest_run_s, run_bench
from nestctl.bench.summary import Summary, summarize
from nestctl.deadline import Deadline
from nestctl.errors import ExitCode
from nestctl.lab.session import open_levels
from nestctl.model.lab import Lab
from nestctl.model.samples import Ending, Results, Settings

BUDGET_S = 90.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    summary: Summary
    written: Written

    @property
    def exit_code(self) -> ExitCode:
        return choose_exit_code(self.summary.results)


def choose_settings(
    *, is_quick: bool = False, rounds: int | None = None, workloads: Sequence[str] = (), seed: int = 0
) -> Settings:
    """Fill in what the user left open: about a minute for two emulated levels, or less than half when quick.

    Who names the rounds gets them, whatever time they take.
    """
    if is_quick:
        return Settings(rounds=rounds or 5, samples=2, target_ms=25, workloads=tuple(workloads), seed=seed)
    budget_s = None if rounds else BUDGET_S
    return Settings(rounds=rounds or 5, budget_s=budget_s, workloads=tuple(workloads), seed=seed)


def measure_lab(lab: Lab, *, connect: str | None, settings: Settings, directory: Path, step: Step) -> Measured:
    """Measure every level of a lab and write the files of the run into `directory`, also when it is interrupted.

    Raises `UsageError` when the lab is not up, and for a workload there is not.
    """
    with open_levels(lab, connect=connect) as levels:
        deadline = Deadline.after(longest_run_s(levels, settings), f"Measuring '{lab.name}'")
        results = run_bench(levels, settings=settings, deadline=deadline, title=lab.name, step=step)
    return Measured(summary=summarize(results), written=write_results(results, directory))


def choose_exit_code(results: Results) -> ExitCode:
    """A run that ended early has its own codes; one in which a level never answered has failed."""
    if results.ending is Ending.INTERRUPTED:
        return ExitCode.INTERRUPTED
    if results.ending is Ending.DEADLINE:
        return ExitCode.DEADLINE
    visited = {call.level for call in results.calls}
    answered = {call.level for call in results.calls if not call.failure}
    return ExitCode.FAILED if visited - answered else ExitCode.OK
