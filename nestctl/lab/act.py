"""Do to one guest what was planned: make it, start it, change it, make it anew, remove it. It can be repeated."""

from __future__ import annotations

from nestctl.deadline import Deadline
from nestctl.lab.access import Access
from nestctl.lab.adopt import adopt_guest
from nestctl.lab.compare import Action, Change, list_limits
from nestctl.lab.guest import create_guest, define_guest, remove_files, start_guest, stop_guest
from nestctl.lab.keys import LabKeys
from nestctl.lab.level import Level
from nestctl.lab.plan import GuestPlan

# How long a guest that does not answer by SSH is given to heed its power button, in seconds.
_SHUT_DOWN_S = 60.0


def act(
    level: Level, change: Change, plan: GuestPlan, *, keys: LabKeys, access: Access, deadline: Deadline
) -> GuestPlan:
    """Do to a guest what was planned, up to its start; return the plan with the port it got."""
    if change.action is Action.ADOPT and plan.adopted:
        return adopt_guest(level, plan, plan.adopted, keys=keys, access=access, deadline=deadline)
    there = change.observed
    created = there.mark.created if there else ""
    if change.action is Action.CREATE:
        return create_guest(level, plan, keys, deadline)
    if change.action is Action.RECREATE:
        level.hypervisor.remove_domain(plan.domain)
        return create_guest(level, plan, keys, deadline)
    if change.action is Action.RESTART and there and plan.answers:
        stop_guest(level, there.contact, keys, access)
    elif change.action is Action.RESTART:
        level.hypervisor.shut_down_domain(plan.domain, Deadline.after(_SHUT_DOWN_S, f"The end of '{plan.name}'"))
    if change.action is Action.CHANGE:
        level.hypervisor.set_limits(plan.domain, list_limits(change.differences))
    if change.differences:
        # After the limits of what runs: the mark says that they are in force.
        define_guest(level, plan, created=created)
    if change.action in {Action.START, Action.RESTART}:
        return start_guest(level, plan, created=created)
    return plan


def remove_superfluous(level: Level, change: Change) -> None:
    """Remove a guest that is not in the lab file any more, with its files and all that is inside it."""
    there = change.observed
    if there and there.mark.is_adopted:
        raise AssertionError("what was adopted is left, not removed")
    if there:
        level.hypervisor.remove_domain(there.domain.name)
        remove_files(level.shell, there.contact.console.parent, change.name)
