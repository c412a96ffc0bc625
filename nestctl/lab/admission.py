"""See whether a lab fits before anything of it is started: memory, CPUs, disk; each with its sums."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestctl.check.rules.quality import QEMU_OVERHEAD_MIB
from nestctl.errors import PrerequisiteError
from nestctl.lab.compare import Action, Change
from nestctl.lab.plan import GuestPlan, walk_plans

# vCPUs for each CPU. OpenStack Nova took 16 by default for years (cpu_allocation_ratio); guests that all work at once
# are slow long before that.
MOST_VCPUS_A_CPU = 16
MANY_VCPUS_A_CPU = 4

# What begins with a guest that is started.
STARTING = {Action.CREATE, Action.START, Action.RESTART, Action.RECREATE}


@dataclass(frozen=True, kw_only=True)
class Room:
    """What this machine has for guests: CPUs, memory in MiB (None where it does not say), space for disks in GiB."""

    cpus: int
    available_mib: int | None
    free_gib: float


def read_room(directory: Path, *, meminfo: Path = Path("/proc/meminfo")) -> Room:
    """Look at this machine; the directory for the disks need not be there yet."""
    while not directory.exists():
        directory = directory.parent
    return Room(
        cpus=os.cpu_count() or 1,
        available_mib=parse_available_mib(meminfo.read_text()),
        free_gib=shutil.disk_usage(directory).free / 2**30,
    )


def parse_available_mib(meminfo: str) -> int | None:
    """Find MemAvailable in /proc/meminfo (kB there), in MiB."""
    for line in meminfo.splitlines():
        if found := re.match(r"MemAvailable:\s*(\d{1,18}) kB", line):
            return int(found[1]) // 1024
    return None


@dataclass(frozen=True, kw_only=True)
class Admission:
    """Whether what is about to start fits this machine: its sums, the errors that say why it does not, warnings.

    `needed_mib` is the memory that each guest that starts has not yet, QEMU's own included; `vcpus` those of all guests
    of this machine, `disk_gib` what the new disks may grow to together.
    """

    room: Room
    needed_mib: Mapping[str, int]
    vcpus: int
    disk_gib: int
    refusals: tuple[PrerequisiteError, ...]
    warnings: tuple[str, ...]


def assess_room(changes: Iterable[Change], room: Room) -> Admission | None:
    """Hold what is about to start against this machine; None when nothing is.

    Memory that is not there and far too many vCPUs are refused. Disks are overlays that take space as they are written:
    that they could outgrow their place is a warning.
    """
    changes = tuple(changes)
    if not any(it.plan and it.action in STARTING for it in changes):
        return None
    needed_mib = {it.name: mib for it in changes if it.plan and (mib := _more_mib(it, it.plan))}
    plans = [it.plan for it in changes if it.plan]
    creating = [it.plan for it in changes if it.plan and it.action is Action.CREATE]
    crowds = list(_list_crowds(plans, room.cpus))
    return Admission(
        room=room,
        needed_mib=needed_mib,
        vcpus=sum(it.cpus for it in plans),
        disk_gib=sum(it.disk_gib for it in creating),
        refusals=(*_refuse_memory(needed_mib, room.available_mib), *(it for crowd in crowds for it in crowd.refuse())),
        warnings=(*(it for crowd in crowds for it in crowd.warn()), *_assess_disks(creating, room.free_gib)),
    )


def _more_mib(change: Change, plan: GuestPlan) -> int:
    """Say what a guest takes that it has not yet; one that is started again gives back what it has."""
    if change.action not in STARTING:
        return 0
    there = change.observed
    if there is None or not there.is_running:
        return plan.memory_mib + QEMU_OVERHEAD_MIB
    has_mib = there.mark.settings.get("memory_mib", 0)
    return max(plan.memory_mib - has_mib, 0) if isinstance(has_mib, int) else plan.memory_mib


def check_room(changes: tuple[Change, ...], room: Room) -> tuple[str, ...]:
    """Return the warnings of `assess_room`; raise `PrerequisiteError` for the first thing that is refused."""
    admission = assess_room(changes, room)
    if admission is None:
        return ()
    if admission.refusals:
        raise admission.refusals[0]
    return admission.warnings


def render_admission(admission: Admission) -> dict[str, Any]:
    """Render it as a part of the JSON document of a plan."""
    return {
        "fits": not admission.refusals,
        "memory": {
            "needed_mib": sum(admission.needed_mib.values()),
            "available_mib": admission.room.available_mib,
            "guests": dict(admission.needed_mib),
        },
        "cpus": {"vcpus": admission.vcpus, "available": admission.room.cpus},
        "disk": {"new_gib": admission.disk_gib, "free_gib": round(admission.room.free_gib, 1)},
        "refusals": [it.message for it in admission.refusals],
        "warnings": list(admission.warnings),
    }


def describe_admission(admission: Admission) -> str:
    """Say the sums in a line."""
    available_mib = admission.room.available_mib
    there = "an unknown amount" if available_mib is None else f"{available_mib} MiB"
    memory = sum(admission.needed_mib.values())
    return (
        f"Memory: {memory} MiB{_show_sum(admission.needed_mib)} of {there} available. "
        f"vCPUs: {admission.vcpus} for {_count_cpus(admission.room.cpus)}. "
        f"New disks: up to {admission.disk_gib} GiB of {admission.room.free_gib:.1f} GiB free."
    )


def _count_cpus(cpus: int) -> str:
    return "1 CPU" if cpus == 1 else f"{cpus} CPUs"


def _show_sum(needed_mib: Mapping[str, int]) -> str:
    shown = [f"{name} {mib}" for name, mib in needed_mib.items()]
    sums = " + ".join(shown if len(shown) <= 12 else [*shown[:10], f"{len(shown) - 10} more"])
    return f" ({sums})" if shown else ""


def _refuse_memory(needed_mib: Mapping[str, int], available_mib: int | None) -> Iterator[PrerequisiteError]:
    needed = sum(needed_mib.values())
    if available_mib is not None and needed > available_mib:
        yield PrerequisiteError(
            f"The guests need {needed} MiB{_show_sum(needed_mib)}, and this machine has {available_mib} MiB available.",
            hint="Lower memory_mib in the lab file, or stop other guests.",
        )


@dataclass(frozen=True, kw_only=True)
class _Crowd:
    """The guests that share the CPUs of a machine."""

    where: str
    vcpus: int
    cpus: int

    def refuse(self) -> Iterator[PrerequisiteError]:
        if self.vcpus > MOST_VCPUS_A_CPU * self.cpus:
            yield PrerequisiteError(
                f"The guests in {self.where} have {self.vcpus} vCPUs together, and it has {_count_cpus(self.cpus)}: "
                f"more than {MOST_VCPUS_A_CPU} for each.",
                hint="Lower 'cpus' in the lab file, or give fewer guests.",
            )

    def warn(self) -> Iterator[str]:
        if MANY_VCPUS_A_CPU * self.cpus < self.vcpus <= MOST_VCPUS_A_CPU * self.cpus:
            yield (
                f"the guests in {self.where} have {self.vcpus} vCPUs together for {_count_cpus(self.cpus)}; they will "
                "wait for each other."
            )


def _list_crowds(plans: list[GuestPlan], cpus: int) -> Iterator[_Crowd]:
    """Yield the guests of this machine, and those of every hypervisor among them."""
    yield _Crowd(where="this machine", vcpus=sum(it.cpus for it in plans), cpus=cpus)
    for it in walk_plans(tuple(plans)):
        if it.guests:
            yield _Crowd(where=f"'{it.name}'", vcpus=sum(inner.cpus for inner in it.guests), cpus=it.cpus)


def _assess_disks(plans: list[GuestPlan], free_gib: float) -> Iterator[str]:
    """Yield a warning when new disks could outgrow their place, here or in a hypervisor of the lab."""
    wanted = sum(it.disk_gib for it in plans)
    if wanted > free_gib:
        yield f"the new disks may grow to {wanted} GiB together, and {free_gib:.1f} GiB are free."
    for it in walk_plans(tuple(plans)):
        inside = sum(inner.disk_gib for inner in it.guests)
        if inside > it.disk_gib:
            yield f"the disks in '{it.name}' may grow to {inside} GiB together, and its own has {it.disk_gib} GiB."
