"""Try settings on a lab: boot it with each in turn, measure one guest, and leave the lab as it was."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from nestctl import __version__
from nestctl.bench.level import Level
from nestctl.bench.run import Progress, longest_run_s, run_bench
from nestctl.bench.tune.bed import Bed
from nestctl.bench.tune.machines import LeftChangedError, changed_machine, expect_seen
from nestctl.bench.tune.trials import Refusal, Trial, change_lab
from nestctl.deadline import Deadline
from nestctl.errors import NestctlError
from nestctl.model.lab import Lab
from nestctl.model.samples import Call, Ending, Results, Settings
from nestctl.model.tune import Refused, Tried, TuneResults


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One boot to measure: with a trial, or without; a control is a second boot without in its round."""

    round: int
    trial: Trial | None
    is_control: bool = False

    @property
    def name(self) -> str:
        return self.trial.name if self.trial else "as it is (control)" if self.is_control else "as it is"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What stays the same while settings are tried; `settings` are those of one boot.

    `way` names the machines on the way to the guest that is measured, this one first and the guest last.
    """

    lab: Lab
    way: tuple[str, ...]
    bed: Bed
    settings: Settings
    rounds: int
    budget_s: float | None
    step: Callable[[str], AbstractContextManager[None]]
    say: Callable[[str], None]

    @property
    def guest(self) -> str:
        return self.way[-1]


_NOWHERE = sys.maxsize  # a place behind the last on every way


@dataclass(kw_only=True)
class _Log:
    """What has been seen so far, by the name of the trial; the lab as it is has an empty name.

    Each series of boots is a run of its own with its own progress, by its name; so is that of the control. Of the way
    the guests from the place `off` on may be off, and those from `other` on may be other than the lab file says.
    """

    measured: dict[str, list[tuple[Visit, Results]]] = field(default_factory=dict)
    progress: dict[str, Progress] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    off: int = _NOWHERE
    other: int = _NOWHERE
    trouble: str = ""


def tune(tuning: Tuning, trials: Sequence[Trial], refusals: Sequence[Refusal], seed: int) -> TuneResults:
    """Try every trial in every round, and put the lab back, whatever happens.

    An interruption does not raise: it is in the results, with what was measured before. A trial that fails is left out
    from then on. Raises when the lab as it is cannot be booted or measured.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    log, ending = _Log(), Ending.COMPLETE
    rounds = plan_visits(trials, tuning.rounds, seed)
    try:
        _go(tuning, rounds, log)
    except KeyboardInterrupt:
        ending = Ending.INTERRUPTED
    except LeftChangedError as error:
        ending, log.trouble = Ending.INTERRUPTED, error.message
    except BaseException:
        if trouble := _put_back(tuning):
            tuning.say(f"nestctl: warning: {trouble}")
        raise
    trouble = " ".join(filter(None, (log.trouble, _put_back(tuning))))
    baseline = _merge("as it is", log.measured.get("", []))
    return TuneResults(
        nestctl_version=__version__,
        created=created,
        lab=tuning.lab.name,
        guest=tuning.guest,
        is_emulated=bool(baseline and any(it.is_emulated for it in baseline.levels if it.name == tuning.guest)),
        ending=ending,
        rounds=tuning.rounds,
        seed=seed,
        baseline=baseline,
        tried=tuple(_describe(trial, log) for trial in trials),
        refused=tuple(Refused(name=it.name, title=it.setting.title, reason=it.reason) for it in refusals),
        trouble=trouble,
    )


def plan_visits(trials: Sequence[Trial], rounds: int, seed: int) -> tuple[tuple[Visit, ...], ...]:
    """Draw the order of boots. Every second round is the one before it backwards.

    So each is A B B A: what drifts steadily through a pair of rounds weighs on all alike. The lab as it is is booted
    twice in each round, and the second series is the control.
    """
    generator = random.Random(seed)  # noqa: S311  an order that can be repeated, not a secret
    kinds: list[tuple[Trial | None, bool]] = [(None, False), (None, True), *((trial, False) for trial in trials)]
    order = kinds
    planned = []
    for number in range(1, rounds + 1):
        order = generator.sample(kinds, len(kinds)) if number % 2 else order[::-1]
        planned.append(tuple(Visit(round=number, trial=trial, is_control=is_control) for trial, is_control in order))
    return tuple(planned)


def _go(tuning: Tuning, rounds: Sequence[Sequence[Visit]], log: _Log) -> None:
    begun_s, longest_s = time.monotonic(), 0.0
    for number, visits in enumerate(rounds, start=1):
        spent_s = time.monotonic() - begun_s
        if number > 1 and tuning.budget_s is not None and spent_s + longest_s > tuning.budget_s:
            tuning.say(f"nestctl: no time for round {number}: {spent_s:.0f} of {tuning.budget_s:.0f} s have passed.")
            return
        for visit in visits:
            if visit.trial is None or visit.trial.name not in log.failures:
                _try(tuning, visit, len(rounds), log)
        longest_s = max(longest_s, time.monotonic() - begun_s - spent_s)


def _try(tuning: Tuning, visit: Visit, rounds: int, log: _Log) -> None:
    name = visit.trial.name if visit.trial else ""
    try:
        with tuning.step(f"Round {visit.round} of at most {rounds}: {visit.name}"):
            results = _boot_and_measure(tuning, visit, log)
    except LeftChangedError:
        raise
    except NestctlError as error:
        if _was_interrupted(error):
            raise KeyboardInterrupt from error
        if visit.trial is None:
            raise
        log.failures[name] = error.message
        tuning.say(f"nestctl: warning: '{name}' is left out from here on: {error.message}")
        return
    log.measured.setdefault(name, []).append((visit, results))
    if results.ending is Ending.INTERRUPTED:
        raise KeyboardInterrupt


def _was_interrupted(error: BaseException | None) -> bool:
    """Tell whether an error came while an interruption was being heeded: then that is what counts."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _boot_and_measure(tuning: Tuning, visit: Visit, log: _Log) -> Results:
    """Boot the guest anew with a trial's change, and measure it once; the change of a machine ends with that."""
    trial, bed, settings = visit.trial, tuning.bed, tuning.settings
    is_of_machine = trial is not None and trial.setting.is_of_machine
    _stop(tuning, trial if is_of_machine else None, log)
    with _changed(bed, trial):
        try:
            lab = _boot(tuning, trial, log)
            with bed.open(lab) as way:
                if trial:
                    _expect_in_effect(trial, way, lab)
                deadline = Deadline.after(longest_run_s(way, settings), f"Measuring '{tuning.guest}'")
                progress = log.progress.setdefault(visit.name, Progress())
                return run_bench(way, settings=settings, deadline=deadline, title=lab.name, progress=progress)
        finally:
            if is_of_machine:
                # A module is not loaded again under a guest, and a guest keeps the pages that it was given.
                _stop(tuning, trial, log)


def _stop(tuning: Tuning, changing: Trial | None, log: _Log) -> None:
    """Have the measured guest switched off, or the one on the way that runs on the machine that is to be changed.

    The guests it is in have to run, and a machine that is to be changed must not be restarted for another reason
    meanwhile. After a trial further out, or one that failed, it is not so: then all are booted as they are first.
    """
    place = tuning.way.index(changing.machine) + 1 if changing else len(tuning.way) - 1
    first = min(log.off, log.other) if changing else log.off
    if first < place:
        _switch_off(first, tuning, log)
        _boot(tuning, None, log)
    _switch_off(place, tuning, log)


def _switch_off(place: int, tuning: Tuning, log: _Log) -> None:
    log.off = min(log.off, place)
    tuning.bed.stop(tuning.way[place])


def _boot(tuning: Tuning, trial: Trial | None, log: _Log) -> Lab:
    """Boot the guest with a trial's change, or without; return the lab that is up then."""
    lab = change_lab(tuning.lab, trial) if trial else tuning.lab
    place = tuning.way.index(trial.machine) if trial and trial.keys else _NOWHERE
    log.off, log.other = min(log.off, place), min(log.other, place)
    tuning.bed.boot(lab)
    log.off, log.other = _NOWHERE, place
    return lab


@contextmanager
def _changed(bed: Bed, trial: Trial | None) -> Iterator[None]:
    """Have a trial's setting of a machine's in effect meanwhile; one of a guest's is in the lab."""
    if trial is None or not trial.setting.is_of_machine:
        yield
    else:
        with bed.open_shell(trial.machine) as shell, changed_machine(shell, trial.setting):
            yield


def _expect_in_effect(trial: Trial, way: Sequence[Level], lab: Lab) -> None:
    if trial.setting.proof:
        place = next(number for number, level in enumerate(way) if level.name == trial.machine)
        expect_seen(
            trial.setting.proof,
            host=way[place - 1].shell,
            inside=way[place].shell,
            domain=f"{lab.name}-{trial.machine}",
            cpu=trial.first_cpu,
        )


def _put_back(tuning: Tuning) -> str:
    """Bring the lab up as its file says; return what could not be done, or nothing."""
    hint = "'nestctl up --recreate' with its lab file puts it back."
    try:
        with tuning.step("Putting the lab back as it was"):
            is_as_it_was = tuning.bed.put_back()
    except KeyboardInterrupt:
        return f"The lab was not put back, because that was interrupted. {hint}"
    except NestctlError as error:
        return f"The lab could not be put back: {error.message} {hint}"
    return "" if is_as_it_was else f"The lab is not as its file says. {hint}"


def _merge(title: str, visits: Sequence[tuple[Visit, Results]]) -> Results | None:
    """Make one run of many boots, with a round for each; None when there is none."""
    if not visits:
        return None
    last = visits[-1][1]
    calls = tuple(
        call for number, (visit, results) in enumerate(visits, start=1) for call in _renumber(visit, number, results)
    )
    return last.model_copy(
        update={
            "title": title,
            "settings": last.settings.model_copy(update={"rounds": max(visit.round for visit, _ in visits)}),
            "levels": tuple(level.model_copy(update={"outcomes": ()}) for level in last.levels),
            "calls": calls,
        }
    )


def _renumber(visit: Visit, number: int, results: Results) -> Iterator[Call]:
    """Give the calls of a boot its round; how long the boot took goes with the first that did not fail."""
    given = [it for level in results.levels for it in level.outcomes if it.samples]
    for call in results.calls:
        own = given if not call.failure else []
        given = given if call.failure else []
        changes = {
            "round": visit.round,
            "boot": number,
            "is_control": visit.is_control,
            "outcomes": (*call.outcomes, *own),
        }
        yield call.model_copy(update=changes)


def _describe(trial: Trial, log: _Log) -> Tried:
    return Tried(
        name=trial.name,
        title=trial.setting.title,
        why=trial.setting.why,
        source=trial.setting.source,
        was=trial.was,
        becomes=trial.becomes,
        failure=log.failures.get(trial.name, ""),
        results=_merge(trial.name, log.measured.get(trial.name, [])),
    )
