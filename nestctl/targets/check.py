"""Check many machines at once, each for itself: what one does is nothing to the others."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nestctl.adapters.agent import run_agent
from nestctl.check.assess import assess
from nestctl.check.report import Report, count_safety
from nestctl.deadline import Deadline
from nestctl.errors import ExitCode, NestctlError, NotFoundOutError
from nestctl.model.facts_document import parse_facts
from nestctl.targets.target import Target, open_target

# Of the answers of several machines the one that comes first here is that of all: what was not found out may hide a no.
_WORST_FIRST = (ExitCode.NOT_FOUND_OUT, ExitCode.NO, ExitCode.OK)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one target: a report, or the reason why there is none."""

    target: Target
    elapsed_s: float
    report: Report | None = None
    error: NotFoundOutError | None = None
    is_strict: bool = False

    @property
    def exit_code(self) -> ExitCode:
        """What a process ends with that checked only this; 3 where there is no report."""
        if self.report is None:
            return ExitCode.NOT_FOUND_OUT
        return self.report.assessment.exit_code(is_strict=self.is_strict)


def worst_of(exit_codes: Sequence[ExitCode]) -> ExitCode:
    """Return the one that counts for all: 3 before 1 before 0. Raises StopIteration where there is none."""
    return next(code for code in _WORST_FIRST if code in exit_codes)


def check_target(target: Target, *, passive: bool, record: bool, timeout_s: float) -> Report:
    """Look at a machine through one connection, with one command, and judge it. Raises `NestctlError`.

    With `record` what was read of its files comes along, for `nestctl.check.recording`.
    """
    flags = [*(["--passive"] if passive else []), *(["--record"] if record else [])]
    deadline = Deadline.after(timeout_s, f"Checking '{target.name}'")
    with open_target(target, deadline) as shell:
        collected = run_agent(shell, ["facts", *flags], deadline=deadline)
    return Report(assessment=assess(parse_facts(collected)), collected=collected)


def judge_for_strangers(outcome: Outcome) -> Outcome:
    """Count safety: the guests of this target are those of strangers."""
    return replace(outcome, report=count_safety(outcome.report) if outcome.report else None)


def check_targets(
    targets: Sequence[Target], *, jobs: int, timeout_s: float, passive: bool = False, record: bool = False
) -> Iterator[Outcome]:
    """Check targets, `jobs` at once and each for at most `timeout_s`, and yield what came of them in their order.

    Nothing is kept of an outcome that was yielded. Whoever stops taking them, or is interrupted, leaves threads that
    end with the process, and their connections with it.
    """
    waiting: queue.SimpleQueue[tuple[int, Target]] = queue.SimpleQueue()
    for numbered in enumerate(targets):
        waiting.put(numbered)
    done: queue.SimpleQueue[tuple[int, Outcome | Exception]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            try:
                number, target = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, _look(target, passive=passive, record=record, timeout_s=timeout_s)))
            except Exception as bug:
                done.put((number, bug))  # raised where the outcomes are taken

    for _ in range(min(jobs, len(targets))):
        threading.Thread(target=work, daemon=True).start()
    early: dict[int, Outcome] = {}
    for expected in range(len(targets)):
        while expected not in early:
            number, outcome = done.get()
            if isinstance(outcome, Exception):
                raise outcome
            early[number] = outcome
        yield early.pop(expected)


def _look(target: Target, *, passive: bool, record: bool, timeout_s: float) -> Outcome:
    begun_s = time.monotonic()
    try:
        report = check_target(target, passive=passive, record=record, timeout_s=timeout_s)
    except NestctlError as error:
        # Whatever went wrong: of this machine nothing was found out.
        return Outcome(
            target=target,
            elapsed_s=time.monotonic() - begun_s,
            error=NotFoundOutError(error.message, hint=error.hint),
        )
    return Outcome(target=target, elapsed_s=time.monotonic() - begun_s, report=report)
