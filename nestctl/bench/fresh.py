"""A run over several boots: the guests are booted anew every so many rounds, and all of it is one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from nestctl.bench.budget import fit_to_budget
from nestctl.bench.level import Level
from nestctl.bench.run import Progress, Step, longest_run_s, run_bench
from nestctl.bench.summary import is_precise
from nestctl.bench.workloads import BOOT_TO_SSH
from nestctl.deadline import Deadline
from nestctl.errors import NestctlError
from nestctl.model.samples import Ending, LevelRecord, Outcome, Results, Settings


def run_fresh(
    open_levels: Callable[[], AbstractContextManager[Sequence[Level]]],
    boot: Callable[[], None],
    *,
    settings: Settings,
    title: str,
    step: Step,
    progress: Progress,
) -> Results:
    """Measure as `run_bench` does, with `boot` called after every `settings.fresh` rounds.

    The budget counts from the beginning of `progress` on, and booting is in it.
    Guests that do not come up again end the run, and the reason is in `left_out`.
    """
    fresh = settings.fresh or settings.rounds
    parts: list[Results] = []
    longest_s = 0.0
    notes: tuple[str, ...] = ()
    while (done := fresh * len(parts)) < settings.rounds:
        spent_s = progress.spent_s
        if done >= settings.fewest_rounds and _is_enough(parts, settings, spent_s + longest_s):
            break
        try:
            if parts:
                boot()
            with open_levels() as levels:
                if not parts:
                    settings, notes = fit_to_budget(levels, settings, spent_s=progress.spent_s)
                part = _part(settings, number=len(parts), rounds=min(fresh, settings.rounds - done))
                deadline = Deadline.after(longest_run_s(levels, part), f"Measuring '{title}'")
                booting_s = sum(level.boot_s[-1] for level in levels if level.boot_s)
                parts.append(
                    run_bench(levels, settings=part, deadline=deadline, title=title, step=step, progress=progress)
                )
        except (NestctlError, KeyboardInterrupt) as error:
            if not parts:
                raise
            return _end(_merge(parts, settings, notes), error)
        if parts[-1].ending is not Ending.COMPLETE:
            break
        took_s = progress.spent_s - spent_s
        # The first part had no boot: what 'up' recorded is expected of the next, until one was seen.
        longest_s = max(took_s, longest_s if len(parts) > 2 else 0.0) if done else took_s + booting_s
    return _merge(parts, settings, notes)


def _merge(parts: Sequence[Results], settings: Settings, notes: tuple[str, ...]) -> Results:
    merged = merge_boots(parts, settings)
    return merged.model_copy(update={"left_out": (*merged.left_out, *notes)})


def _is_enough(parts: Sequence[Results], settings: Settings, would_be_s: float) -> bool:
    if settings.budget_s is not None and would_be_s > settings.budget_s:
        return True
    return is_precise(merge_boots(parts, settings))


def _part(settings: Settings, *, number: int, rounds: int) -> Settings:
    """Say how to measure between two boots: so many rounds, whatever time they take, in an order of their own."""
    whole = {"rounds": rounds, "fewest_rounds": rounds, "until": None, "budget_s": None}
    return settings.model_copy(update={**whole, "seed": settings.seed + number})


def _end(results: Results, error: BaseException) -> Results:
    if not isinstance(error, NestctlError):
        return results.model_copy(update={"ending": Ending.INTERRUPTED})
    left_out = (*results.left_out, f"The guests did not come up again for more rounds: {error.message}")
    return results.model_copy(update={"ending": Ending.FAILED, "left_out": left_out})


def merge_boots(parts: Sequence[Results], settings: Settings) -> Results:
    """Make one run of several, each from another boot of the guests, in the order of time."""
    calls = tuple(call for part in parts for call in part.calls)
    levels = tuple(_merge_level([part.levels[place] for part in parts]) for place in range(len(parts[0].levels)))
    last = {"ending": parts[-1].ending, "calls": calls, "levels": levels, "settings": settings}
    return parts[0].model_copy(update=last)


def _merge_level(records: Sequence[LevelRecord]) -> LevelRecord:
    outcomes = [*records[0].outcomes]
    for record in records[1:]:
        outcomes += [_newest(outcome) for outcome in record.outcomes if outcome.samples]
    setups_ns = [record.setup_ns for record in records if record.setup_ns is not None]
    changes = {"outcomes": tuple(outcomes), "setup_ns": sum(setups_ns) if setups_ns else None}
    return records[0].model_copy(update=changes)


def _newest(outcome: Outcome) -> Outcome:
    """Of the times that 'up' has recorded, all but the last are in the part before."""
    if outcome.workload != BOOT_TO_SSH:
        return outcome
    return outcome.model_copy(update={"samples": outcome.samples[-1:]})
