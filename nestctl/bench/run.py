"""Visit every level once per round, in random order, and keep what was measured, whatever happens on the way."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from nestctl import __version__
from nestctl.adapters.agent import run_agent
from nestctl.adapters.shell import Shell
from nestctl.bench.stats import FEWEST_FOR_INTERVAL
from nestctl.bench.workloads import AGENT_WORKLOADS, BOOT_IN_GUEST, BOOT_TO_SSH, choose_workloads
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, NestctlError, UsageError
from nestctl.model.samples import (
    Call,
    Ending,
    LevelRecord,
    Outcome,
    Results,
    Sample,
    Settings,
    Workload,
    parse_measurement,
)

Step = Callable[[str], AbstractContextManager[None]]

ROUNDS_BEFORE_BUDGET = FEWEST_FOR_INTERVAL
NOT_STARTED_HERE = "nestctl did not start this machine"


class Level(Protocol):
    """A machine to measure, such as `nestctl.lab.session.OpenLevel`.

    `above` names the level whose hypervisor runs it; the top has none. `is_emulated` is also true for a KVM guest of an
    emulated level. `boot_s` are the seconds from its start to the first answer over SSH, where the lab recorded them.
    """

    @property
    def name(self) -> str: ...
    @property
    def depth(self) -> int: ...
    @property
    def above(self) -> str | None: ...
    @property
    def shell(self) -> Shell: ...
    @property
    def is_emulated(self) -> bool: ...
    @property
    def accelerator(self) -> str: ...
    @property
    def boot_s(self) -> tuple[float, ...]: ...


@dataclass
class _Log:
    """What has been seen so far; an interrupted run is what is in here."""

    calls: list[Call] = field(default_factory=list)
    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    boots: dict[str, tuple[Outcome, ...]] = field(default_factory=dict)


def _silently(_text: str) -> AbstractContextManager[None]:
    return nullcontext()


def run_bench(
    levels: Sequence[Level], *, settings: Settings, deadline: Deadline, title: str = "", step: Step = _silently
) -> Results:
    """Measure all levels; `step` shows each round to the user.

    A level that fails, an interruption and the deadline do not raise: they are in the results, with all that was
    measured before. Raises `UsageError` for settings or levels that make no sense.
    """
    workloads = choose_workloads(settings.workloads)
    _check_names(levels)
    log = _Log()
    ending = Ending.COMPLETE
    created = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        _read_boots(log, levels, workloads, deadline, step)
        _run_rounds(log, levels, workloads, settings, deadline, step)
    except KeyboardInterrupt:
        ending = Ending.INTERRUPTED
    except DeadlineError:
        ending = Ending.DEADLINE
    return Results(
        nestctl_version=__version__,
        created=created,
        title=title,
        ending=ending,
        settings=settings,
        workloads=workloads,
        levels=tuple(_record(level, log) for level in levels),
        calls=tuple(log.calls),
    )


def _check_names(levels: Sequence[Level]) -> None:
    names = [level.name for level in levels]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"Levels to measure need names that differ, and these are '{', '.join(names)}'.")
    if strange := [level for level in levels if level.above is not None and level.above not in names]:
        raise UsageError(f"'{strange[0].name}' is run by '{strange[0].above}', which is not among the levels.")


def _record(level: Level, log: _Log) -> LevelRecord:
    return LevelRecord(
        name=level.name,
        depth=level.depth,
        above=level.above,
        is_emulated=level.is_emulated,
        accelerator=level.accelerator,
        environment=log.environments.get(level.name, {}),
        outcomes=log.boots.get(level.name, ()),
    )


def _run_rounds(
    log: _Log,
    levels: Sequence[Level],
    workloads: Sequence[Workload],
    settings: Settings,
    deadline: Deadline,
    step: Step,
) -> None:
    names = [workload.name for workload in workloads if workload in AGENT_WORKLOADS]
    if not names:
        return
    begun_s, longest_s = time.monotonic(), 0.0
    for number, order in enumerate(_orders(levels, settings), start=1):
        spent_s = time.monotonic() - begun_s
        if settings.budget_s and number > ROUNDS_BEFORE_BUDGET and spent_s + longest_s > settings.budget_s:
            return
        with step(f"Round {number} of at most {settings.rounds}: {', '.join(level.name for level in order)}"):
            for level in order:
                log.calls.append(_visit(level, number, names, settings, deadline, log))
        longest_s = max(longest_s, time.monotonic() - begun_s - spent_s)


def _orders(levels: Sequence[Level], settings: Settings) -> Iterator[list[Level]]:
    generator = random.Random(settings.seed)  # noqa: S311  an order that can be repeated, not a secret
    for _ in range(settings.rounds):
        yield generator.sample(levels, len(levels))


def _visit(level: Level, number: int, names: Sequence[str], settings: Settings, deadline: Deadline, log: _Log) -> Call:
    """Measure one level once. Raises `DeadlineError` when there is no time left for the whole run."""
    deadline.check()
    arguments = ["measure", f"--samples={settings.samples}", f"--target-ms={settings.target_ms}"]
    arguments += [f"--workload={name}" for name in names]
    timeout_s = min(_timeout_s(level, len(names), settings), deadline.remaining_s)
    begin_ns = _clock_ns()
    try:
        document = run_agent(level.shell, arguments, deadline=Deadline.after(timeout_s, f"Measuring '{level.name}'"))
        measured = parse_measurement(document, where=level.shell.where)
    except NestctlError as error:
        return Call(
            level=level.name, round=number, host_begin_ns=begin_ns, host_end_ns=_clock_ns(), failure=error.message
        )
    end_ns = _clock_ns()
    log.environments.setdefault(level.name, measured.environment)
    return Call(
        level=level.name,
        round=number,
        host_begin_ns=begin_ns,
        host_end_ns=end_ns,
        level_begin_ns=measured.begin_ns,
        level_end_ns=measured.end_ns,
        outcomes=measured.outcomes,
    )


def longest_run_s(levels: Sequence[Level], settings: Settings) -> float:
    """Say after how many seconds a run cannot be going on as it should, however slow its levels are."""
    return settings.rounds * sum(_timeout_s(level, len(AGENT_WORKLOADS), settings) for level in levels)


def _timeout_s(level: Level, workloads: int, settings: Settings) -> float:
    """Allow four times the measuring and a minute per level of depth for starting; an emulated level gets triple."""
    measuring_s = workloads * (settings.samples + 1) * settings.target_ms / 1000
    return (60 * (level.depth + 1) + 4 * measuring_s) * (3 if level.is_emulated else 1)


def _clock_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def _read_boots(
    log: _Log, levels: Sequence[Level], workloads: Sequence[Workload], deadline: Deadline, step: Step
) -> None:
    wanted = {workload.name for workload in workloads} & {BOOT_TO_SSH, BOOT_IN_GUEST}
    if not wanted:
        return
    with step("Boot times"):
        for level in levels:
            outcomes = (_boot_to_ssh(level), _boot_in_guest(level, deadline))
            log.boots[level.name] = tuple(outcome for outcome in outcomes if outcome.workload in wanted)


def _boot_to_ssh(level: Level) -> Outcome:
    samples = tuple(Sample(operations=1, elapsed_ns=round(boot_s * 1e9)) for boot_s in level.boot_s)
    return Outcome(
        workload=BOOT_TO_SSH,
        samples=samples,
        not_measured="" if samples else NOT_STARTED_HERE,
        how="recorded by 'nestctl up'" if samples else "",
    )


def _boot_in_guest(level: Level, deadline: Deadline) -> Outcome:
    """Ask systemd when it had finished: microseconds after the kernel began (systemd's D-Bus interface Manager)."""
    if level.above is None:
        return Outcome(workload=BOOT_IN_GUEST, not_measured=NOT_STARTED_HERE)
    command = ["systemctl", "show", "--property=FinishTimestampMonotonic", "--value"]
    try:
        finished_us = level.shell.run(command, deadline=deadline).expect_success().text
    except NestctlError as error:
        deadline.check()
        return Outcome(workload=BOOT_IN_GUEST, not_measured=error.message)
    return parse_boot(finished_us)


def parse_boot(finished_us: str) -> Outcome:
    """Read FinishTimestampMonotonic, which is 0 while a system is still starting."""
    if not finished_us.isdecimal() or int(finished_us) == 0:
        return Outcome(workload=BOOT_IN_GUEST, not_measured="systemd has not finished starting this guest")
    sample = Sample(operations=1, elapsed_ns=int(finished_us) * 1000)
    return Outcome(workload=BOOT_IN_GUEST, samples=(sample,), how="FinishTimestampMonotonic of systemd")
