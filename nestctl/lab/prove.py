"""Hold a guest to what it was planned to be: by what it says of itself, never by its XML alone."""

from __future__ import annotations

from collections.abc import Iterator

from nestctl.adapters.shell import Shell
from nestctl.deadline import Deadline
from nestctl.errors import NestctlError
from nestctl.lab.compare import Action, Change, walk_changes
from nestctl.lab.hypervisor import needs_preparation
from nestctl.lab.level import Level
from nestctl.lab.parallel import Failure
from nestctl.lab.plan import GuestPlan
from nestctl.lab.render import parse_domain_type
from nestctl.lab.verify import Truth, expect_accelerated, expect_hypervisor, expect_seeded, read_truth


def is_proven(change: Change) -> bool:
    """Tell whether a guest, and all inside it, are as wanted by what they have said of themselves."""
    truth = change.observed.truth if change.observed else None
    return (
        change.action is Action.KEEP
        and change.plan is not None
        and truth is not None
        and not needs_preparation(change.plan, truth)
        and all(is_proven(it) for it in change.guests)
    )


def verify_all(change: Change) -> Iterator[Failure]:
    """Yield each guest, of one and all inside it, that has said something of itself that it should not say."""
    for it in walk_changes((change,)):
        if it.plan and it.observed and it.observed.truth:
            try:
                verify(it.plan, parse_domain_type(it.observed.domain.live_xml), it.observed.truth)
            except NestctlError as error:
                yield Failure(name=it.name, error=error)


def verify(plan: GuestPlan, domain_type: str, truth: Truth) -> None:
    """Raise `GuestError` unless a guest is what it is meant to be, by its domain and what it says of itself."""
    expect_seeded(plan.name, truth)
    if not plan.place.is_emulated:
        expect_accelerated(plan.name, domain_type, truth)
    if plan.is_hypervisor:
        expect_hypervisor(plan.name, truth)


def prove(level: Level, plan: GuestPlan, shell: Shell, deadline: Deadline) -> None:
    """Ask a guest, and raise `GuestError` unless it runs on what it is meant to, and can do what it is meant to do."""
    truth = read_truth(shell, deadline)
    domain = level.hypervisor.find_domain(plan.domain)
    verify(plan, parse_domain_type(domain.live_xml) if domain and domain.is_running else "absent", truth)
