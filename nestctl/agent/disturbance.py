"""What kept a process from running while it measured: other processes here, and other guests of the level above."""

from __future__ import annotations

import argparse
import os
from typing import Any

SCHEDSTAT = "/proc/self/schedstat"
STAT = "/proc/stat"
STEAL = 8  # the place of 'steal' in the line 'cpu' of /proc/stat, its name counted (proc_stat(5))
NS_PER_S = 1_000_000_000
MOST_BYTES = 4096  # what is wanted is in the first line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the subcommand `disturbance`: there are none."""


def run(_arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the hypervisor above has taken from this machine since it was started, where the kernel says it."""
    return {"schema": "nestctl.disturbance/1", "stolen_ns": _stolen_ns()}


def read_disturbance() -> dict[str, int]:
    """Return counters that only grow, in nanoseconds; what this kernel does not count is left out.

    `waited_ns` is the time this process was ready and had no CPU: the second number of schedstat
    (Documentation/scheduler/sched-stats.rst). `stolen_ns` is what the hypervisor above did not give this machine's
    CPUs, in steps of a clock tick.
    """
    counters = {"waited_ns": _waited_ns(), "stolen_ns": _stolen_ns()}
    return {name: value for name, value in counters.items() if value is not None}


def difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return what each counter grew by, of those that both have; 0 for one that went back."""
    return {name: max(0, after[name] - before[name]) for name in after if name in before}


def _waited_ns() -> int | None:
    return parse_waited(_text(SCHEDSTAT))


def _stolen_ns() -> int | None:
    return parse_stolen(_text(STAT), os.sysconf("SC_CLK_TCK"))


def parse_waited(schedstat: str) -> int | None:
    """Return the second number of /proc/self/schedstat, in nanoseconds; None where it is not of three numbers."""
    words = schedstat.split()
    return int(words[1]) if len(words) == 3 and words[1].isdigit() else None


def parse_stolen(stat: str, ticks_per_s: int) -> int | None:
    """Return what the first line of /proc/stat says of stolen time, in nanoseconds; None where it has no such field."""
    words = stat.partition("\n")[0].split()
    if len(words) <= STEAL or words[0] != "cpu" or not words[STEAL].isdigit():
        return None
    return int(words[STEAL]) * NS_PER_S // ticks_per_s


def _text(path: str) -> str:
    # Not by pathlib and io: what runs between two samples is felt in the next (how-we-measure.md).
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(descriptor, MOST_BYTES).decode("ascii", errors="replace")
    finally:
        os.close(descriptor)
