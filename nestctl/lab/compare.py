"""From what is wanted and what is there to what has to be done. Pure; the result can be printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from nestctl.errors import FailedError, UsageError
from nestctl.lab.addresses import choose_address, is_in
from nestctl.lab.observe import Inside, Observed
from nestctl.lab.plan import GuestPlan


class Action(StrEnum):
    """What has to be done so that a guest is as planned."""

    CREATE = "create"
    ADOPT = "adopt"
    START = "start"
    CHANGE = "change"
    RESTART = "restart"
    RECREATE = "recreate"
    REMOVE = "remove"
    UNKNOWN = "unknown"
    KEEP = "keep"


# Settings that are only in the domain: they take effect when it is started the next time, or at once.
_AT_ONCE = {"labels", "quota"}
_AT_START = {
    "cpus",
    "memory_mib",
    "kernel_args",
    "nesting",
    "cpu_model",
    "cpu_features_off",
    "isolated",
    "closed",
    "cdrom",
    "tuning",
} | _AT_ONCE

# What ends something that runs, or deletes something: done only when it was asked for.
_DISRUPTIVE = {Action.RESTART, Action.RECREATE}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting that a guest was made with and is not to have any more."""

    setting: str
    there: Any
    wanted: Any


@dataclass(frozen=True, kw_only=True)
class Change:
    """What has to be done with one guest, and with those inside it.

    `plan` is None for a guest that is no longer wanted, `observed` for one that is not there or not known of.
    """

    name: str
    level: int
    action: Action
    reason: str = ""
    differences: tuple[Difference, ...] = ()
    plan: GuestPlan | None
    observed: Observed | None
    guests: tuple[Change, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Tell whether nothing has to be done with it, nor inside it as far as was looked."""
        return self.action is Action.KEEP and all(it.is_settled for it in self.guests)


def compare(wanted: tuple[GuestPlan, ...], there: Inside) -> tuple[Change, ...]:
    """Say what has to be done on one hypervisor, and inside its guests.

    Raises `FailedError` when a domain of somebody else's has a name that is needed.
    """
    observed = {it.mark.name: it for it in there.guests}
    for plan in wanted:
        if plan.domain in there.strangers and not plan.adopted:
            raise FailedError(
                f"A domain '{plan.domain}' that does not belong to the lab '{plan.lab}' is there already.",
                hint="Give the lab another name; nestctl changes only what it made.",
            )
    names = {plan.name for plan in wanted}
    changes = (_compare_guest(plan, observed.get(plan.name)) for plan in _keep_addresses(wanted, there))
    return (*changes, *(_remove(it) for it in there.guests if it.mark.name not in names))


def _keep_addresses(wanted: tuple[GuestPlan, ...], there: Inside) -> Iterator[GuestPlan]:
    """Leave every guest of a network the address it has; a new one gets none that is taken.

    Else a guest that comes or goes in the lab file would move all those after it.
    """
    kept = {it.mark.name: it.mark.address for it in there.guests}
    taken = set(kept.values())
    for plan in wanted:
        address = plan.uplink.address
        if plan.uplink.network and plan.name in kept and is_in(kept[plan.name], plan.uplink.subnet):
            address = kept[plan.name]
        elif plan.uplink.network and address in taken:
            address = choose_address(plan.uplink.subnet, taken)
        taken.add(address)
        yield plan.with_address(address)


def wanted_plans(changes: Iterable[Change]) -> tuple[GuestPlan, ...]:
    """Return the guests that are wanted, each with the address it has or gets."""
    return tuple(it.plan for it in changes if it.plan)


def _compare_guest(plan: GuestPlan, observed: Observed | None) -> Change:
    if observed and observed.mark.is_adopted is not bool(plan.adopted):
        there, wanted = ("adopted", "made") if observed.mark.is_adopted else ("made by nestctl", "adopted")
        raise UsageError(
            f"The guest '{plan.name}' is {there}, and is to be {wanted}: one is not turned into the other.",
            hint=f"Remove the lab with 'nestctl down {plan.lab}', or give the guest another name.",
        )
    action, reason, differences = _decide(plan, observed)
    guests: tuple[Change, ...]
    if action in {Action.CREATE, Action.RECREATE} or (plan.adopted and observed is None):
        guests = compare(plan.guests, Inside())
    elif observed is None or observed.inside is None:
        guests = tuple(_unknown(it, observed.reason if observed else "") for it in plan.guests)
    else:
        guests = compare(plan.guests, observed.inside)
        if action is Action.RESTART:
            guests = tuple(_start_again(it, plan.name) for it in guests)
    return Change(
        name=plan.name,
        level=plan.level,
        action=action,
        reason=reason,
        differences=differences,
        plan=replace(plan, guests=wanted_plans(guests)),
        observed=observed,
        guests=guests,
    )


def _decide(plan: GuestPlan, observed: Observed | None) -> tuple[Action, str, tuple[Difference, ...]]:
    if observed is None:
        return (Action.ADOPT, f"the domain '{plan.domain}'", ()) if plan.adopted else (Action.CREATE, "", ())
    if observed.is_disk_gone:
        return Action.CREATE, "its disk is gone", ()
    if not observed.mark.settings:
        return Action.RECREATE, "what it was made with is not in its metadata any more", ()
    differences = tuple(list_differences(plan, observed))
    if plan.adopted:
        # Where the lab's key does not get in any more, the user's does, as in the beginning.
        return (Action.ADOPT if differences or observed.truth is None else Action.KEEP), observed.reason, differences
    differing = {it.setting for it in differences}
    if any(limit == "cpu_shares" and value is None for limit, value in list_limits(differences).items()):
        # The kernel's default is one number with cgroup v1 and another with v2: a new QEMU gets the right one.
        differing.add("cpus")
    if differing - _AT_START:
        return Action.RECREATE, "", differences
    if not observed.is_running:
        return Action.START, "it is off", differences
    if differing - _AT_ONCE:
        return Action.RESTART, "", differences
    return (Action.CHANGE if differing else Action.KEEP), "", differences


def list_differences(plan: GuestPlan, observed: Observed) -> Iterator[Difference]:
    """Yield every setting that is not what it is to be, in the order of the plan."""
    there = observed.mark.settings
    for setting in (*plan.settings, *(it for it in there if it not in plan.settings)):
        if plan.settings.get(setting) != there.get(setting):
            yield Difference(setting=setting, there=there.get(setting), wanted=plan.settings.get(setting))


def list_limits(differences: Iterable[Difference]) -> dict[str, int | None]:
    """List the limits of a quota that are to become others, None for one that is lifted."""
    limits: dict[str, int | None] = {}
    for it in differences:
        if it.setting == "quota":
            there, wanted = it.there or {}, it.wanted or {}
            limits |= {name: wanted.get(name) for name in {*there, *wanted} if there.get(name) != wanted.get(name)}
    return limits


def _unknown(plan: GuestPlan, reason: str) -> Change:
    guests = tuple(_unknown(it, reason) for it in plan.guests)
    return Change(
        name=plan.name,
        level=plan.level,
        action=Action.UNKNOWN,
        reason=reason,
        plan=plan,
        observed=None,
        guests=guests,
    )


def _remove(observed: Observed) -> Change:
    inside = observed.inside.guests if observed.inside else ()
    return Change(
        name=observed.mark.name,
        level=observed.mark.level,
        action=Action.REMOVE,
        reason="it is not in the lab file" + ("; the domain stays" if observed.mark.is_adopted else ""),
        plan=None,
        observed=observed,
        guests=tuple(_remove(it) for it in inside),
    )


def _start_again(change: Change, outer: str) -> Change:
    """A guest stops with the one it is in."""
    guests = tuple(_start_again(it, change.name) for it in change.guests)
    if change.action in {Action.KEEP, Action.CHANGE, Action.RESTART}:
        return replace(change, action=Action.START, reason=f"it stops with '{outer}'", guests=guests)
    return replace(change, guests=guests)


def walk_changes(changes: Iterable[Change]) -> Iterator[Change]:
    """Yield every change, each before those inside it."""
    for change in changes:
        yield change
        yield from walk_changes(change.guests)


def is_settled(changes: Iterable[Change]) -> bool:
    """Tell whether there is nothing to do."""
    return all(change.is_settled for change in changes)


def check_permitted(lab: str, changes: tuple[Change, ...], *, may_recreate: bool) -> None:
    """Raise `UsageError` when something would be restarted or made anew, and nobody asked for it."""
    disruptive = [it for it in walk_changes(changes) if it.action in _DISRUPTIVE]
    if may_recreate or not disruptive:
        return
    said = "\n".join(f"  The guest '{it.name}' exists with other settings: {describe(it)}." for it in disruptive)
    raise UsageError(
        f"What is there of the lab '{lab}' cannot become what is wanted while it stays:\n{said}",
        hint="'nestctl up --recreate' restarts guests and makes them anew where it has to; 'nestctl plan' with the same"
        " lab file shows all of it.",
    )


def describe(change: Change) -> str:
    """Say in words why something has to be done: the settings that differ, from what to what, or the reason."""
    words = [f"{it.setting} {_show(it.there)} -> {_show(it.wanted)}" for it in change.differences]
    return ", ".join([change.reason, *words] if change.reason else words)


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {it}" for key, it in value.items()) + "}"
    return "nothing" if value in (None, "") else str(value)
