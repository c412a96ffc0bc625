"""Visit every level once per round, in random order, and keep what was measured, whatever happens on the way."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime

from nestctl import __version__
from nestctl.bench.agents import Agents
from nestctl.bench.boot import read_boots, wants_boots
from nestctl.bench.brackets import Brackets, add_brackets, clock_ns, make_bracket
from nestctl.bench.costs import DEAREST_PAUSES, pause_share
from nestctl.bench.level import Level, control_of
from nestctl.bench.programs import Program, read_programs
from nestctl.bench.run_program import run_program
from nestctl.bench.summary import CLOCK_TOLERANCE, is_precise
from nestctl.bench.workloads import AGENT_WORKLOADS, choose_workloads
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, NestctlError, UsageError
from nestctl.model.samples import (
    Bracket,
    Call,
    Ending,
    Family,
    LevelRecord,
    Outcome,
    Results,
    Settings,
    Workload,
    parse_fingerprint,
    parse_measurement,
)

# A micro-guest counts its own exits, and a pause before its samples would be felt in them (how-we-measure.md).
_BRACKETED = frozenset(workload.name for workload in AGENT_WORKLOADS if workload.family is not Family.MICRO_GUEST)

MOST_ROUNDS = 1000  # of a run that its budget or its precision ends
LONG_S = 120.0  # for which somebody waits, and wants to know

Step = Callable[[str], AbstractContextManager[None]]


@dataclass(kw_only=True)
class Progress:
    """How far a run has come, over all boots of its guests; it began at `begun_s` by the monotonic clock.

    `rounds` are begun, the first of them after `first_s`, of `most_rounds` where it is known how many there will be.
    `pauses` has by the level's name what its first visit with pauses said that they cost, as a part of its samples.
    """

    begun_s: float = field(default_factory=time.monotonic)
    most_rounds: int = MOST_ROUNDS
    boots: int = 0
    rounds: int = 0
    first_s: float = 0.0
    pauses: dict[str, float] = field(default_factory=dict)

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self.begun_s

    def begin_round(self) -> None:
        self.rounds += 1
        self.first_s = self.first_s or self.spent_s

    def __str__(self) -> str:
        """Such as 'Round 2 of at most 5, about 12 min to go': what rounds and boots took until now, for all others."""
        if self.most_rounds >= MOST_ROUNDS:
            return f"Round {self.rounds}"
        done = self.rounds - 1
        left_s = (self.spent_s - self.first_s) / done * (self.most_rounds - done) if done else 0.0
        left = f", about {left_s / 60:.0f} min to go" if left_s >= LONG_S else ""
        return f"Round {self.rounds} of at most {self.most_rounds}{left}"


@dataclass(kw_only=True)
class _Log:
    """What has been seen so far in this boot; an interrupted run is what is in here."""

    levels: Sequence[Level]
    measured: Sequence[Level]
    agents: Agents
    brackets: Brackets
    workloads: tuple[Workload, ...]
    settings: Settings
    title: str
    created: str
    progress: Progress
    calls: list[Call] = field(default_factory=list)
    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    setups_ns: dict[str, int] = field(default_factory=dict)
    boots: Mapping[str, tuple[Outcome, ...]] = field(default_factory=dict)

    def results(self, ending: Ending) -> Results:
        return Results(
            nestctl_version=__version__,
            created=self.created,
            title=self.title,
            ending=ending,
            settings=self.settings,
            workloads=self.workloads,
            levels=tuple(self._record(level) for level in self.levels),
            calls=tuple(self.calls),
            left_out=self.brackets.list_reasons(),
        )

    def _record(self, level: Level) -> LevelRecord:
        return LevelRecord(
            name=level.name,
            depth=level.depth,
            above=level.above,
            is_emulated=level.is_emulated,
            accelerator=level.accelerator,
            environment=self.environments.get(level.name, {}),
            setup_ns=self.setups_ns.get(level.name),
            outcomes=self.boots.get(level.name, ()),
        )


def _silently(_text: str) -> AbstractContextManager[None]:
    return nullcontext()


def run_bench(
    levels: Sequence[Level],
    *,
    settings: Settings,
    deadline: Deadline,
    title: str = "",
    step: Step = _silently,
    progress: Progress | None = None,
) -> Results:
    """Measure levels until the settings are fulfilled; `step` shows each round to the user.

    `progress` is that of a run with several boots, of which this is the next; it is carried on.
    A level that fails, an interruption and the deadline do not raise: they are in the results, with all that was
    measured before. Raises `UsageError` for settings or levels that make no sense.
    """
    _check_names(levels)
    progress = progress or Progress(most_rounds=settings.rounds)
    progress.boots += 1
    agents = Agents()
    log = _Log(
        levels=levels,
        measured=[level for level in levels if level.name in settings.levels or not settings.levels],
        agents=agents,
        brackets=Brackets(levels={level.name: level for level in levels}, agents=agents),
        workloads=choose_workloads(settings.workloads),
        settings=settings,
        title=title,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        progress=progress,
    )
    ending = Ending.COMPLETE
    try:
        if wants_boots(log.workloads):
            with step("Boot times"):
                log.boots = read_boots(log.measured, log.workloads, deadline)
        with log.agents:
            _run_rounds(log, deadline, step)
    except KeyboardInterrupt:
        ending = Ending.INTERRUPTED
    except DeadlineError:
        ending = Ending.DEADLINE
    return log.results(ending)


def _check_names(levels: Sequence[Level]) -> None:
    names = [level.name for level in levels]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"Levels to measure need names that differ, and these are '{', '.join(names)}'.")
    if strange := [level for level in levels if level.above is not None and level.above not in names]:
        raise UsageError(f"'{strange[0].name}' is run by '{strange[0].above}', which is not among the levels.")


@dataclass(frozen=True, kw_only=True)
class _Visit:
    """One visit to make. The control is a second visit of a round to a level, as if it were another level."""

    level: Level
    is_control: bool

    def __str__(self) -> str:
        return f"{self.level.name} (control)" if self.is_control else self.level.name


def _run_rounds(log: _Log, deadline: Deadline, step: Step) -> None:
    settings, progress = log.settings, log.progress
    names = [workload.name for workload in log.workloads if workload in AGENT_WORKLOADS]
    wanted = {workload.name for workload in log.workloads}
    programs = [program for program in read_programs() if program.name in wanted]
    if not names and not programs:
        return
    longest_s = 0.0
    for number, visits in enumerate(_plan_rounds(log.measured, settings), start=1):
        spent_s = progress.spent_s
        is_late = settings.budget_s is not None and spent_s + longest_s > settings.budget_s
        if number > settings.fewest_rounds and (is_late or is_precise(log.results(Ending.COMPLETE))):
            return
        progress.begin_round()
        with step(f"{progress}: {', '.join(map(str, visits))}"):
            for visit in visits:
                if names:
                    log.calls.append(_measure(visit, names, deadline, log))
                for program in programs:
                    log.calls.append(_run_program(program, visit, deadline, log))
        longest_s = max(longest_s, progress.spent_s - spent_s)


def _plan_rounds(levels: Sequence[Level], settings: Settings) -> Iterator[list[_Visit]]:
    """Draw the order of each round."""
    generator = random.Random(settings.seed)  # noqa: S311  an order that can be repeated, not a secret
    visits = [_Visit(level=level, is_control=False) for level in levels]
    if settings.has_control:
        visits.append(_Visit(level=control_of(levels), is_control=True))
    for _ in range(settings.rounds):
        yield generator.sample(visits, len(visits))


def _measure(visit: _Visit, names: Sequence[str], deadline: Deadline, log: _Log) -> Call:
    """Measure one level once. Raises `DeadlineError` when there is no time left for the whole run."""
    deadline.check()
    level, settings = visit.level, log.settings
    paused = [name for name in names if name in _BRACKETED] if _has_pauses(visit, log.progress) else []
    arguments = ["measure", f"--samples={settings.samples}", f"--target-ms={settings.target_ms}"]
    arguments += [f"--workload={name}" for name in names] + [f"--pause={name}" for name in paused]
    if paused:
        log.brackets.read_exits(level)  # starts the agent above, which is no part of the visit
    timeout_s = min(_timeout_s(level, len(names), settings), deadline.remaining_s)
    call = _begin_call(visit, log)
    visiting = Deadline.after(timeout_s, f"Measuring '{level.name}'")
    try:
        if level.name not in log.environments:
            document = log.agents.ask(level, ("fingerprint",), deadline=visiting)
            log.environments[level.name] = parse_fingerprint(document, where=level.shell.where)
            log.setups_ns[level.name] = clock_ns() - call.host_begin_ns
            call = call.model_copy(update={"host_begin_ns": clock_ns()})
        document, brackets = log.brackets.measure(level, arguments, visiting)
        measured = add_brackets(parse_measurement(document, where=level.shell.where), brackets)
    except NestctlError as error:
        return call.model_copy(update={"host_end_ns": clock_ns(), "failure": error.message})
    end_ns = clock_ns()
    stamps = {"host_end_ns": end_ns, "level_begin_ns": measured.begin_ns, "level_end_ns": measured.end_ns}
    call = call.model_copy(update={**stamps, "paused_ns": measured.paused_ns, "outcomes": measured.outcomes})
    if brackets:
        log.progress.pauses.setdefault(level.name, pause_share(call))
    return call


def _has_pauses(visit: _Visit, progress: Progress) -> bool:
    """Choose a guest's visits until one has shown what pauses cost it, and all later ones where that is little.

    The first is none of the control: exits are those of the figures, and where pauses are dear it is the only one.
    """
    if visit.level.above is None:
        return False
    cost = progress.pauses.get(visit.level.name)
    return not visit.is_control if cost is None else cost <= DEAREST_PAUSES


def _begin_call(visit: _Visit, log: _Log) -> Call:
    return Call(
        level=visit.level.name,
        round=log.progress.rounds,
        boot=log.progress.boots,
        is_control=visit.is_control,
        host_begin_ns=clock_ns(),
        host_end_ns=0,
    )


def _run_program(program: Program, visit: _Visit, deadline: Deadline, log: _Log) -> Call:
    """Run a program once on one level; it is a call of its own, with L0's clock around it."""
    level = visit.level
    above = next((other for other in log.levels if other.name == level.above), None)
    timeout_s = min(_timeout_s(level, 1, log.settings), deadline.remaining_s)
    running = Deadline.after(timeout_s, f"'{program.program}' on '{level.name}'")
    stolen_ns, exits = log.brackets.read_stolen(level, running), log.brackets.read_exits(level)
    call = _begin_call(visit, log)
    try:
        outcome = run_program(program, level, above, running)
        bracket = make_bracket(call.host_begin_ns, clock_ns(), exits, log.brackets.read_exits(level))
        outcome = bracket_program(outcome, bracket, stolen_ns, log.brackets.read_stolen(level, running))
    except NestctlError as error:
        deadline.check()
        outcome = Outcome(workload=program.name, not_measured=error.message)
    end_ns = outcome.bracket.host_end_ns if outcome.bracket else clock_ns()
    return call.model_copy(update={"host_end_ns": end_ns, "outcomes": (outcome,)})


def bracket_program(outcome: Outcome, bracket: Bracket, before_ns: int | None, after_ns: int | None) -> Outcome:
    """Add what was seen from outside. A sample that took longer than L0's clock says cannot be right and is void."""
    around_ns = bracket.host_end_ns - bracket.host_begin_ns
    stolen_ns = None if before_ns is None or after_ns is None else max(after_ns - before_ns, 0)
    samples = []
    for sample in outcome.samples:
        void = ""
        if sample.elapsed_ns > around_ns * (1 + CLOCK_TOLERANCE):
            void = f"it says that it took {sample.elapsed_ns / 1e9:.3f} s, and by L0's clock all of it took "
            void += f"{around_ns / 1e9:.3f} s"
        samples.append(sample.model_copy(update={"stolen_ns": stolen_ns, "void": void}))
    return outcome.model_copy(update={"samples": tuple(samples), "bracket": bracket if samples else None})


def longest_run_s(levels: Sequence[Level], settings: Settings) -> float:
    """Say after how many seconds a run cannot be going on as it should, however slow its levels are.

    Rounds beyond the fewest are bounded by the budget, where there is one.
    """
    programs = len(read_programs())
    round_s = 2 * sum(
        _timeout_s(level, len(AGENT_WORKLOADS), settings) + programs * _timeout_s(level, 1, settings)
        for level in levels
    )
    if settings.budget_s is None:
        return settings.rounds * round_s
    return settings.budget_s + min(settings.fewest_rounds, settings.rounds) * round_s


def _timeout_s(level: Level, workloads: int, settings: Settings) -> float:
    """Allow four times the measuring and a minute per level of depth for starting; an emulated level gets triple."""
    measuring_s = workloads * (settings.samples + 1) * settings.target_ms / 1000
    return (60 * (level.depth + 1) + 4 * measuring_s) * (3 if level.is_emulated else 1)
