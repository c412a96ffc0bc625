"""Try settings on a lab that is up, and write down what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nestctl.adapters.files import write_atomically
from nestctl.bench.tune.bed import LabBed, find_way
from nestctl.bench.tune.machines import look_at
from nestctl.bench.tune.report import render_tune_markdown, render_tune_page
from nestctl.bench.tune.run import Tuning, tune
from nestctl.bench.tune.settings import Setting, read_settings
from nestctl.bench.tune.summary import TuneSummary, summarize_tune
from nestctl.bench.tune.trials import Machine, Refusal, Trial, list_trials
from nestctl.bench.workloads import BOOT_IN_GUEST, choose_workloads
from nestctl.errors import ExitCode, UsageError
from nestctl.lab.level import Step
from nestctl.lab.nodes import Node, list_nodes
from nestctl.lab.part import expect_settled
from nestctl.lab.session import HOST_NAME, open_levels
from nestctl.model.lab import Lab, walk_guests
from nestctl.model.samples import Ending, Settings

WORKLOADS = (
    "cpu",
    "memory_latency",
    "memory_bandwidth",
    "disk_read",
    "disk_write",
    "fio_qd32",
    "fio_fsync",
    "syscall",
    "wake_same_cpu",
    "fork_exec",
    "timer_wake",
    BOOT_IN_GUEST,
)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What came of it, and the files that were written: raw results, a page, and Markdown."""

    summary: TuneSummary
    files: tuple[Path, ...]

    @property
    def exit_code(self) -> ExitCode:
        """How the command ends: 0, or what kept it from that."""
        results = self.summary.results
        if results.ending is Ending.INTERRUPTED:
            return ExitCode.INTERRUPTED
        return ExitCode.FAILED if results.trouble or _has_nothing(self.summary) else ExitCode.OK


def _has_nothing(summary: TuneSummary) -> bool:
    return all(it.results is None for it in summary.results.tried)


def find_guest(lab: Lab, name: str | None) -> Node:
    """Find the guest to measure: the one of that name, or the innermost of the first guest of this machine.

    Raises `UsageError` when there is none of that name.
    """
    nodes = list_nodes(lab)
    if name is None:
        first = next(iter(lab.guests))
        return max((node for node in nodes if node.path[0] == first), key=lambda node: node.level)
    found = next((node for node in nodes if node.name == name), None)
    if found is None:
        raise UsageError(f"The lab '{lab.name}' has no guest '{name}'; it has {', '.join(it.name for it in nodes)}.")
    return found


def find_trials(
    lab: Lab, node: Node, settings: Sequence[Setting], *, connect: str | None, may_change_host: bool
) -> tuple[Trial | Refusal, ...]:
    """Look at every machine on the way to a guest, and say which settings can be tried there."""
    guests = dict(walk_guests(lab.guests))
    with open_levels(lab, connect=connect) as levels:
        way = find_way(levels, lab, node)
        machines = []
        for level, inner in zip(way, (*way[1:], None), strict=True):
            seen = look_at(level.shell, settings)
            machines.append(
                Machine(
                    name=level.name,
                    runs=inner.accelerator if inner else "",
                    cpus=seen.cpus,
                    flags=seen.flags,
                    free_huge_pages_mib=seen.free_huge_pages_mib,
                    values=seen.values,
                    guest=guests.get(level.name),
                )
            )
    return list_trials(settings, machines, may_change_host=may_change_host)


def list_lab_trials(
    lab: Lab, *, guest: str | None, names: Sequence[str], connect: str | None, may_change_host: bool
) -> tuple[Trial | Refusal, ...]:
    """Say what can be tried on the way to a guest, of all settings or those that are named."""
    trials = find_trials(lab, find_guest(lab, guest), read_settings(), connect=connect, may_change_host=may_change_host)
    return _select(trials, names)


def _select(trials: Sequence[Trial | Refusal], names: Sequence[str]) -> tuple[Trial | Refusal, ...]:
    """Pick by SETTING or SETTING@MACHINE. Raises `UsageError` for what there is not."""
    known = {key for it in trials for key in (it.name, it.setting.name)}
    if unknown := [name for name in names if name not in known]:
        there = ", ".join(dict.fromkeys(it.setting.name for it in trials))
        raise UsageError(
            f"There is no setting '{unknown[0]}' on the way to this guest.",
            hint=f"Choose from {there}, or one of them on one machine, such as '{trials[0].name}'.",
        )
    return tuple(it for it in trials if not names or {it.name, it.setting.name} & {*names})


def tune_lab(
    lab: Lab,
    *,
    guest: str | None,
    names: Sequence[str],
    workloads: Sequence[str],
    rounds: int,
    budget_s: float | None,
    may_change_host: bool,
    seed: int,
    connect: str | None,
    directory: Path,
    step: Step,
    say: Callable[[str], None],
) -> Tuned:
    """Try settings on a guest of a lab, put everything back, and write files into `directory`.

    Raises `UsageError` when the lab is not up as its file says, or nothing can be tried.
    """
    node = find_guest(lab, guest)
    settings = Settings(
        rounds=1,
        fewest_rounds=1,
        has_control=False,
        samples=3,
        target_ms=100,
        seed=seed,
        levels=(node.name,),
        workloads=tuple(it.name for it in choose_workloads(tuple(workloads) or WORKLOADS)),
    )
    if node.guest.adopt:
        raise UsageError(f"The guest '{node.name}' is a domain that was adopted: nestctl does not boot it anew.")
    expect_settled(lab, connect)
    found = list_lab_trials(lab, guest=guest, names=names, connect=connect, may_change_host=may_change_host)
    trials = [it for it in found if isinstance(it, Trial)]
    refusals = [it for it in found if isinstance(it, Refusal)]
    if not trials:
        reasons = "".join(f"\n  {it.name}: {it.reason}" for it in refusals)
        raise UsageError(f"Nothing of that can be tried here:{reasons}")
    tuning = Tuning(
        lab=lab,
        way=(HOST_NAME, *node.path),
        bed=LabBed(lab=lab, node=node, connect=connect, step=step),
        settings=settings,
        rounds=rounds,
        budget_s=budget_s,
        step=step,
        say=say,
    )
    say(f"nestctl: '{node.name}' is booted {(len(trials) + 2) * rounds} times; then all is as it was.")
    summary = summarize_tune(tune(tuning, trials, refusals, seed))
    return Tuned(summary=summary, files=_write(summary, directory))


def _write(summary: TuneSummary, directory: Path) -> tuple[Path, ...]:
    results = summary.results
    directory.mkdir(parents=True, exist_ok=True)
    stamp = "".join(character for character in results.created[:19] if character.isalnum())
    texts = {
        "json": results.model_dump_json(indent=1, by_alias=True) + "\n",
        "html": render_tune_page(summary),
        "md": render_tune_markdown(summary),
    }
    files = []
    for kind, text in texts.items():
        path = directory / f"tune-{results.lab}-{results.guest}-{stamp}.{kind}"
        write_atomically(path, text.encode())
        files.append(path)
    return tuple(files)
