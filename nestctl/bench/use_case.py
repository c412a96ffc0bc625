"""Measure a lab that is up, and write down what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nestctl.adapters.files import check_directory
from nestctl.bench.budget import fit_to_budget
from nestctl.bench.fresh import run_fresh
from nestctl.bench.html import Written, write_results
from nestctl.bench.pins import pinned
from nestctl.bench.run import MOST_ROUNDS, Progress, longest_run_s, run_bench
from nestctl.bench.stats import FEWEST_FOR_INTERVAL
from nestctl.bench.summary import Summary, summarize
from nestctl.bench.verdicts import read_verdicts
from nestctl.bench.workloads import DEFAULT_WORKLOADS, QUICK_WORKLOADS, WORKLOADS, choose_workloads
from nestctl.deadline import Deadline
from nestctl.errors import ExitCode, UsageError
from nestctl.lab.level import Step
from nestctl.lab.part import boot_anew, expect_settled
from nestctl.lab.session import OpenLevel, open_levels
from nestctl.model.lab import Lab
from nestctl.model.samples import Ending, Results, Settings, Spent

PRECISION_BUDGET_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run came to, and its files."""

    summary: Summary
    written: Written

    @property
    def exit_code(self) -> ExitCode:
        """How the command ends: 0, or what kept it from that."""
        return choose_exit_code(self.summary.results)


@dataclass(kw_only=True)
class _Watch:
    """How long a run has taken, and what of that was opening and booting. CLOCK_MONOTONIC, as that of deadlines."""

    begun_ns: int = field(default_factory=time.monotonic_ns)
    taken_ns: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def counting(self, what: str) -> Iterator[None]:
        begun_ns = time.monotonic_ns()
        try:
            yield
        finally:
            self.taken_ns[what] = self.taken_ns.get(what, 0) + time.monotonic_ns() - begun_ns

    def read(self) -> Spent:
        return Spent(
            whole_ns=time.monotonic_ns() - self.begun_ns,
            opening_ns=self.taken_ns.get("opening", 0),
            boots_ns=self.taken_ns.get("boots", 0),
        )


def choose_settings(
    *,
    is_quick: bool = False,
    is_full: bool = False,
    rounds: int | None = None,
    budget_s: float | None = None,
    until: float | None = None,
    workloads: Sequence[str] = (),
    fresh: int | None = None,
    seed: int = 0,
) -> Settings:
    """Fill in what the user left open: five rounds, or as many as a named budget or precision takes.

    Who names the rounds gets them, whatever time they take; who names a budget gets it kept, however few rounds it has
    room for. A precision that cannot be reached ends with the budget, named or not. Raises `UsageError` for a workload
    there is not, and for what contradicts itself.
    """
    if is_quick and is_full:
        raise UsageError("'--quick' measures a part and '--full' everything: they do not go together.")
    choose_workloads(workloads)
    is_open = budget_s is not None or until is not None
    samples, target_ms = (2, 25) if is_quick else (3, 100)
    return Settings(
        rounds=rounds or (MOST_ROUNDS if is_open else FEWEST_FOR_INTERVAL),
        fewest_rounds=1 if budget_s is not None else FEWEST_FOR_INTERVAL,
        budget_s=budget_s if budget_s is not None or until is None else PRECISION_BUDGET_S,
        until=until,
        has_control=True,
        samples=samples,
        target_ms=target_ms,
        workloads=tuple(workloads) or _choose_names(is_quick=is_quick, is_full=is_full),
        fresh=fresh,
        seed=seed,
    )


def measure_lab(lab: Lab, *, connect: str | None, settings: Settings, directory: Path, step: Step) -> Measured:
    """Measure every level of a lab and write the files of the run into `directory`, also when it is interrupted.

    Raises `UsageError` when the lab is not up, and as `check_directory`.
    """
    check_directory(directory)
    watch = _Watch()
    progress = Progress(begun_s=watch.begun_ns / 1e9, most_rounds=settings.rounds)
    if settings.fresh:
        expect_settled(lab, connect)
    about: dict[str, dict[str, str]] = {}

    @contextmanager
    def open_pinned() -> Iterator[Sequence[OpenLevel]]:
        with ExitStack() as opened:
            with watch.counting("opening"):
                levels = opened.enter_context(open_levels(lab, connect=connect))
                if not about:  # guests that are booted anew are checked once
                    with step("Checking every level"):
                        about.update(read_verdicts(levels))
                for name, text in opened.enter_context(pinned(levels, lab.name)).items():
                    about[name]["pinned"] = text
            yield levels

    def boot() -> None:
        with watch.counting("boots"):
            boot_anew(lab, connect=connect, step=step)

    if settings.fresh:
        results = run_fresh(open_pinned, boot, settings=settings, title=lab.name, step=step, progress=progress)
    else:
        with open_pinned() as there:
            results = _run_once(there, settings, lab.name, step, progress)
    results = _add_environment(results, about)
    left_out = (*results.left_out, *list_left_out(results.settings))
    results = results.model_copy(update={"left_out": left_out, "spent": watch.read()})
    return Measured(summary=summarize(results), written=write_results(results, directory))


def _run_once(levels: Sequence[OpenLevel], settings: Settings, title: str, step: Step, progress: Progress) -> Results:
    settings, notes = fit_to_budget(levels, settings, spent_s=progress.spent_s)
    deadline = Deadline.after(longest_run_s(levels, settings), f"Measuring '{title}'")
    results = run_bench(levels, settings=settings, deadline=deadline, title=title, step=step, progress=progress)
    return results.model_copy(update={"left_out": (*results.left_out, *notes)})


def _add_environment(results: Results, about: Mapping[str, Mapping[str, str]]) -> Results:
    levels = tuple(
        level.model_copy(update={"environment": {**level.environment, **about.get(level.name, {})}})
        for level in results.levels
    )
    return results.model_copy(update={"levels": levels})


def _choose_names(*, is_quick: bool, is_full: bool) -> tuple[str, ...]:
    if is_full:
        return ()
    return QUICK_WORKLOADS if is_quick else DEFAULT_WORKLOADS


def list_left_out(settings: Settings) -> tuple[str, ...]:
    """Say which workloads a run leaves out, unless they were named: then whoever named them knows."""
    if settings.workloads not in (QUICK_WORKLOADS, DEFAULT_WORKLOADS):
        return ()
    names = [workload.name for workload in WORKLOADS if workload.name not in settings.workloads]
    by_default = [name for name in names if name in DEFAULT_WORKLOADS]
    by_full = [name for name in names if name not in DEFAULT_WORKLOADS]
    left_out = (("by default", by_default), ("with --full", by_full))
    return tuple(f"Left out, and measured {how}: {', '.join(those)}." for how, those in left_out if those)


def choose_exit_code(results: Results) -> ExitCode:
    """A run that ended early has its own codes; one in which a level never answered has failed."""
    if results.ending is Ending.INTERRUPTED:
        return ExitCode.INTERRUPTED
    if results.ending is Ending.DEADLINE:
        return ExitCode.DEADLINE
    visited = {call.level for call in results.calls}
    answered = {call.level for call in results.calls if not call.failure}
    return ExitCode.FAILED if visited - answered or results.ending is Ending.FAILED else ExitCode.OK
