"""Make a lab be there, as its plan says. It can be interrupted anywhere and run again: it finishes the job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from nestctl.adapters.libvirt import Hypervisor
from nestctl.adapters.process import LocalShell
from nestctl.lab.access import Access, SshAccess
from nestctl.lab.admission import STARTING, Room, check_room, read_room
from nestctl.lab.adoption import read_adoptions
from nestctl.lab.bring_up import Run, Wishes, bring_up
from nestctl.lab.compare import Action, Change, check_permitted, compare, walk_changes, wanted_plans
from nestctl.lab.host import Host, open_connection, read_host, read_host_facts
from nestctl.lab.images import ensure_lab_images
from nestctl.lab.keys import ensure_lab_keys
from nestctl.lab.level import Level, Step, list_own_domains
from nestctl.lab.lifetime import ensure_expiry, now_utc
from nestctl.lab.networks import (
    check_bridge_setting,
    check_networks,
    compare_networks,
    ensure_networks,
    prune_networks,
    remove_networks,
)
from nestctl.lab.observe import look_at, observe
from nestctl.lab.parallel import raise_failures
from nestctl.lab.plan import GuestPlan, plan_lab, plan_networks
from nestctl.lab.profiles import warn_of_profiles
from nestctl.lab.risk import Risk, check_risks, describe_risk, read_risks
from nestctl.lab.ssh_config import write_ssh_config
from nestctl.lab.store import forget_lab, keep_lab, lab_directory, lock_lab
from nestctl.model.lab import Lab, walk_guests

EMULATION_NOTICE = (
    "nestctl: NO HARDWARE VIRTUALIZATION that guests could use: QEMU emulates the CPU and AMD SVM (TCG).\n"
    "  Guests work at every level, slowly. No time measured in them is the cost of hardware. See 'nestctl check'."
)


def up(
    lab: Lab,
    *,
    connect: str | None,
    step: Step,
    say: Callable[[str], None],
    wishes: Wishes | None = None,
) -> tuple[GuestPlan, ...]:
    """Bring every guest of a lab up, level by level, and prove that each runs on what it is meant to run on.

    Does what `nestctl plan` shows: guests that run as they are wanted are only looked at. A guest that fails keeps
    nobody but the guests inside it from coming up; all failures are raised together in the end. What was brought up
    stays, and the next `up` goes on from there.
    """
    host = read_host(connect)
    if host.is_emulated:
        say(EMULATION_NOTICE)
    if lab.networks:
        check_bridge_setting()
    risks = read_risks(lab, is_emulated=host.is_emulated)
    profiles = [it.profile for _, it in walk_guests(lab.guests)]
    for warning in warn_of_profiles(profiles, cpu_feature=host.cpu_feature, is_emulated=host.is_emulated):
        say(f"nestctl: warning: {warning}")
    with lock_lab(lab.name), open_connection(host.uri) as hypervisor:
        # An image takes a minute to build: not for a libvirt that cannot be reached.
        ensure_lab_images(lab, step)
        level = Level(shell=LocalShell(), hypervisor=hypervisor)
        return converge(
            level,
            lab,
            host,
            step=step,
            say=say,
            wishes=wishes or Wishes(),
            access=SshAccess(),
            room=read_room(lab_directory(lab.name)),
            risks=risks,
        )


def converge(
    level: Level,
    lab: Lab,
    host: Host,
    *,
    step: Step,
    say: Callable[[str], None],
    wishes: Wishes,
    access: Access,
    room: Room,
    risks: tuple[Risk, ...] = (),
) -> tuple[GuestPlan, ...]:
    """Do what `up` does, on a level that is open, which has `room`."""
    there = observe(level, look_at(lab, access=access, is_thorough=True))
    networks_there = level.hypervisor.list_networks()
    facts = read_host_facts(host, lab, there.domains, networks_there)
    changes = compare(plan_lab(lab, facts), there)
    networks = compare_networks(
        lab.name, plan_networks(lab, facts), networks_there, level.hypervisor.list_filters() if lab.networks else ()
    )
    check_networks(level.hypervisor, networks, _networks_in_use(changes))
    plans = wanted_plans(changes)
    concerned = wishes.select(changes)
    check_permitted(lab.name, concerned, may_recreate=wishes.may_recreate)
    for risk in risks:
        say(f"nestctl: warning: {describe_risk(risk)}")
    if any(it.plan and it.plan.is_hypervisor and it.action in STARTING for it in concerned):
        check_risks(risks)
    for warning in check_room(concerned, room):
        say(f"nestctl: warning: {warning}")
    _say_superfluous(lab.name, changes, wishes, say)
    directory = keep_lab(lab)
    try:
        keys = ensure_lab_keys(directory / "keys.json", lab)
        write_ssh_config(directory, plans, keys)
        run = Run(
            lab=lab.name,
            host=host,
            keys=keys,
            step=step,
            access=access,
            wishes=wishes,
            slots=threading.Semaphore(max(wishes.jobs, 1)),
            crowd=max(1, min(wishes.jobs, sum(not it.is_settled for it in walk_changes(concerned)))),
        )
        ensure_networks(level.hypervisor, networks, step)
        plans = bring_up(level, changes, None, run)
        if wishes.may_prune:
            prune_networks(level.hypervisor, lab.name, networks)
        ensure_expiry(level.hypervisor, lab, now_utc())
    except BaseException:
        _forget_if_unused(level.hypervisor, lab.name)
        raise
    # A port may have been taken, and replaced, between planning and starting.
    write_ssh_config(directory, plans, keys)
    _forget_if_unused(level.hypervisor, lab.name)
    raise_failures(run.failures)
    return plans


def _networks_in_use(changes: Iterable[Change]) -> Iterator[str]:
    for change in changes:
        if change.observed and change.observed.is_running and change.plan:
            yield change.plan.uplink.network


def _forget_if_unused(hypervisor: Hypervisor, lab: str) -> None:
    if not list_own_domains(hypervisor, lab) and not read_adoptions(lab):
        remove_networks(hypervisor, lab)
        forget_lab(lab)


def _say_superfluous(lab: str, changes: tuple[Change, ...], wishes: Wishes, say: Callable[[str], None]) -> None:
    names = [it.name for it in walk_changes(changes) if it.action is Action.REMOVE]
    if names and not wishes.may_prune:
        say(f"nestctl: warning: not in the lab file any more: {', '.join(names)}. 'up --prune' removes what is not.")
