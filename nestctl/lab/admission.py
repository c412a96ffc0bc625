"""See whether a lab fits before anything of it is started: memory, CPUs, disk; each with its sums."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nestctl.errors import PrerequisiteError
from nestctl.lab.compare import Action, Change
from nestctl.lab.plan import GuestPlan, walk_plans

# vCPUs for each CPU. OpenStack Nova took 16 by default for years (cpu_allocation_ratio); guests that all work at once
# are slow long before that.
MOST_VCPUS_A_CPU = 16
MANY_VCPUS_A_CPU = 4

# Beside a guest's memory QEMU needs some of its own; under TCG its translated code most of all.
_QEMU_OVERHEAD_MIB = 128

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


def check_room(changes: tuple[Change, ...], room: Room) -> tuple[str, ...]:
    """Check what is about to start against this machine; return warnings.

    Raises `PrerequisiteError` when the memory is not there, or there would be far too many vCPUs. Disks are overlays
    that take space as they are written: that they could outgrow their place is a warning.
    """
    starting = [it.plan for it in changes if it.plan and it.action in STARTING]
    if not starting:
        return ()
    # What runs, and is to run on, has its memory already.
    more = [it.plan for it in changes if it.plan and it.action in {Action.CREATE, Action.START}]
    check_memory(more, room.available_mib)
    plans = [it.plan for it in changes if it.plan]
    creating = [it.plan for it in changes if it.plan and it.action is Action.CREATE]
    return (*assess_cpus(plans, room.cpus), *assess_disks(creating, room.free_gib))


def check_memory(plans: Iterable[GuestPlan], available_mib: int | None) -> None:
    """Raise `PrerequisiteError` when this machine has not the memory for guests that are to start."""
    needed = {plan.name: plan.memory_mib + _QEMU_OVERHEAD_MIB for plan in plans}
    if available_mib is not None and sum(needed.values()) > available_mib:
        shown = [f"{name} {mib}" for name, mib in needed.items()]
        sums = " + ".join(shown if len(shown) <= 12 else [*shown[:10], f"{len(shown) - 10} more"])
        raise PrerequisiteError(
            f"The guests need {sum(needed.values())} MiB ({sums}), and this machine has {available_mib} MiB available.",
            hint="Lower memory_mib in the lab file, or stop other guests.",
        )


def assess_cpus(plans: list[GuestPlan], cpus: int) -> Iterator[str]:
    """Yield warnings about too many vCPUs, here and in every hypervisor; raise where they are far too many."""
    for where, guests, there in (
        ("this machine", plans, cpus),
        *((f"'{it.name}'", list(it.guests), it.cpus) for it in walk_plans(tuple(plans)) if it.guests),
    ):
        wanted = sum(it.cpus for it in guests)
        if wanted > MOST_VCPUS_A_CPU * there:
            raise PrerequisiteError(
                f"The guests in {where} have {wanted} vCPUs together, and it has {there} CPUs: "
                f"more than {MOST_VCPUS_A_CPU} for each.",
                hint="Lower 'cpus' in the lab file, or give fewer guests.",
            )
        if wanted > MANY_VCPUS_A_CPU * there:
            yield f"the guests in {where} have {wanted} vCPUs together for {there} CPUs; they will wait for each other."


def assess_disks(plans: list[GuestPlan], free_gib: float) -> Iterator[str]:
    """Yield a warning when new disks could outgrow their place, here or in a hypervisor of the lab."""
    wanted = sum(it.disk_gib for it in plans)
    if wanted > free_gib:
        yield f"the new disks may grow to {wanted} GiB together, and {free_gib:.1f} GiB are free."
    for it in walk_plans(tuple(plans)):
        inside = sum(inner.disk_gib for inner in it.guests)
        if inside > it.disk_gib:
            yield f"the disks in '{it.name}' may grow to {inside} GiB together, and its own has {it.disk_gib} GiB."
