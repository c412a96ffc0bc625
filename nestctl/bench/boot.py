"""How long guests took to boot: from what the lab recorded, and from each guest's systemd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nestctl.bench.level import Level
from nestctl.bench.workloads import BOOT_IN_GUEST, BOOT_TO_SSH
from nestctl.deadline import Deadline
from nestctl.errors import NestctlError
from nestctl.model.samples import Outcome, Sample, Workload

NOT_STARTED_HERE = "nestctl did not start this machine"


def wants_boots(workloads: Sequence[Workload]) -> bool:
    """Tell whether a boot time is among the workloads: then `read_boots` has to be asked."""
    return any(workload.name in (BOOT_TO_SSH, BOOT_IN_GUEST) for workload in workloads)


def read_boots(
    levels: Sequence[Level], workloads: Sequence[Workload], deadline: Deadline
) -> Mapping[str, tuple[Outcome, ...]]:
    """Ask for the boot times of every level, by its name.

    Raises `DeadlineError` when the whole run has no time left.
    """
    wanted = {workload.name for workload in workloads}
    boots = {}
    for level in levels:
        outcomes = (_boot_to_ssh(level), _boot_in_guest(level, deadline))
        boots[level.name] = tuple(outcome for outcome in outcomes if outcome.workload in wanted)
    return boots


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
