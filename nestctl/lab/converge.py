"""Make a lab be there, as its plan says. It can be interrupted anywhere and run again: it finishes the job."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from nestctl.adapters.libvirt import Hypervisor
from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Shell
from nestctl.deadline import Deadline
from nestctl.errors import GuestError, NestctlError, SeveralError
from nestctl.lab.admission import STARTING, Room, check_room, read_room
from nestctl.lab.compare import Action, Change, check_permitted, compare, list_limits, walk_changes, wanted_plans
from nestctl.lab.guest import create_guest, define_guest, remove_files, start_guest, stop_guest
from nestctl.lab.host import Host, open_connection, read_host, read_host_facts
from nestctl.lab.hypervisor import needs_preparation, prepare_hypervisor
from nestctl.lab.images import ensure_lab_images
from nestctl.lab.keys import LabKeys, ensure_lab_keys, find_keys
from nestctl.lab.level import Access, Level, SshAccess, Step, boot_timeout_s, list_own_domains
from nestctl.lab.lifetime import ensure_expiry, now_utc
from nestctl.lab.network_plan import NetworkPlan
from nestctl.lab.networks import (
    check_bridge_setting,
    check_networks,
    compare_networks,
    ensure_network,
    ensure_networks,
    prune_networks,
    remove_networks,
)
from nestctl.lab.observe import Look, observe
from nestctl.lab.parallel import run_all
from nestctl.lab.plan import GuestPlan, plan_lab, plan_networks
from nestctl.lab.profiles import warn_of_profiles
from nestctl.lab.qemu_answers import keep_answers
from nestctl.lab.render import EMULATOR, parse_domain_type
from nestctl.lab.risk import Risk, check_risks, describe_risk, read_risks
from nestctl.lab.ssh_config import write_ssh_config
from nestctl.lab.store import forget_lab, keep_lab, lab_directory, lock_lab, record_boot
from nestctl.lab.verify import Truth, expect_accelerated, expect_hypervisor, expect_seeded, read_truth
from nestctl.model.lab import Lab, walk_guests

EMULATION_NOTICE = (
    "nestctl: NO HARDWARE VIRTUALIZATION that guests could use: QEMU emulates the CPU and AMD SVM (TCG).\n"
    "  Guests work at every level, slowly. No time measured in them is the cost of hardware. See 'nestctl check'."
)

LOCK_TIMEOUT_S = 3600.0

# How long a guest that does not answer by SSH is given to heed its power button, in seconds.
_SHUT_DOWN_S = 60.0

# Packages are installed from the network.
_PREPARE_TIMEOUT_S = 3600.0

# How much more time a vendor's image is given than the built one: firmware, boot loader, cloud-init, and its packages.
_CLOUD_INIT = 5

# One more than there are CPUs: a guest that boots waits for its disk and its clocks now and then.
DEFAULT_JOBS = (os.cpu_count() or 1) + 1


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What `up` may do, and how much of it at once: `jobs` guests boot at the same time, at all levels together.

    `only` is the way to a guest, as the names of those it is in and its own: nothing else than these, and what is
    inside it, is touched. Empty, everything is.
    """

    jobs: int = DEFAULT_JOBS
    may_recreate: bool = False
    may_prune: bool = False
    only: tuple[str, ...] = ()

    def concerns(self, name: str, level: int) -> bool:
        """Tell whether a guest at a level may be touched; those it is in may be, or nobody asks."""
        return level > len(self.only) or self.only[level - 1] == name

    def select(self, changes: Iterable[Change]) -> tuple[Change, ...]:
        """Return what is to be done with guests that may be touched."""
        return tuple(replace(it, guests=self.select(it.guests)) for it in changes if self.concerns(it.name, it.level))


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A guest that could not be brought up or removed, and why."""

    name: str
    error: NestctlError


@dataclass(frozen=True, kw_only=True)
class Run:
    """What stays the same while one lab is brought up.

    `slots` are for the guests that boot at the same time, which are at most `crowd`: each is given as much more time.
    """

    lab: str
    host: Host
    keys: LabKeys
    step: Step
    access: Access
    wishes: Wishes
    stop: threading.Event = field(default_factory=threading.Event)
    slots: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(1))
    failures: list[Failure] = field(default_factory=list)
    crowd: int = 1

    def check(self) -> None:
        """Begin nothing more once the user has interrupted."""
        if self.stop.is_set():
            raise KeyboardInterrupt


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
    ensure_lab_images(lab, step)
    with (
        lock_lab(lab.name, Deadline.after(LOCK_TIMEOUT_S, f"Waiting for another nestctl at work on '{lab.name}'")),
        open_connection(host.uri) as hypervisor,
    ):
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
    there = observe(level, Look(lab=lab.name, keys=find_keys(lab.name), access=access, is_thorough=True))
    networks_there = level.hypervisor.list_networks()
    facts = read_host_facts(host, lab, (it.domain for it in there.guests), networks_there)
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


def raise_failures(failures: list[Failure]) -> None:
    """Raise the error of the only guest that failed, or one that has all of them, with the worst exit code."""
    if len(failures) == 1:
        raise failures[0].error
    if failures:
        raise SeveralError([(it.name, it.error) for it in failures])


def _forget_if_unused(hypervisor: Hypervisor, lab: str) -> None:
    if not list_own_domains(hypervisor, lab):
        remove_networks(hypervisor, lab)
        forget_lab(lab)


def _say_superfluous(lab: str, changes: tuple[Change, ...], wishes: Wishes, say: Callable[[str], None]) -> None:
    names = [it.name for it in walk_changes(changes) if it.action is Action.REMOVE]
    if names and not wishes.may_prune:
        say(f"nestctl: warning: not in the lab file any more: {', '.join(names)}. 'up --prune' removes what is not.")


def bring_up(level: Level, changes: tuple[Change, ...], network: NetworkPlan | None, run: Run) -> tuple[GuestPlan, ...]:
    """Bring guests up on a level, and in each of them the guests inside it: the same code all the way down."""
    for change in changes:
        if change.action is Action.REMOVE and run.wishes.may_prune:
            _prune(level, change, run)
    wanted = [(change, plan) for change in changes if (plan := change.plan)]
    if not wanted and run.wishes.may_prune:
        # The last guest inside a guest is gone, and with it the need for a network there.
        remove_networks(level.hypervisor, run.lab)
    if any(change.action in STARTING for change, _ in wanted):
        with run.step(f"Preparing {level.shell.where} for guests", lab=run.lab):
            _prepare(level, wanted[0][1], network)
    tasks = [lambda it=it, plan=plan: _try_guest(level, it, plan, run) for it, plan in wanted]
    return run_all(tasks, jobs=run.wishes.jobs, stop=run.stop)


def _try_guest(level: Level, change: Change, plan: GuestPlan, run: Run) -> GuestPlan:
    """Bring one guest up; its failure is noted, and is no reason to leave the others."""
    run.check()
    if not run.wishes.concerns(plan.name, plan.level):
        return plan
    try:
        return _bring_up_one(level, change, plan, run)
    except NestctlError as error:
        run.failures.append(Failure(name=plan.name, error=error))
        return plan


def _bring_up_one(level: Level, change: Change, plan: GuestPlan, run: Run) -> GuestPlan:
    if _is_proven(change):
        _verify_all(change, run)
        return plan
    if not plan.answers:
        return _start_silent(level, change, plan, run)
    with ExitStack() as stack:
        plan, shell = _start(level, change, plan, run, stack)
        if plan.is_hypervisor and plan.place.firmware:
            _prepare_hypervisor(plan, shell, run)
        if not plan.guests and not change.guests:
            _prove(level, plan, shell, run)
            return plan
        with ThreadPoolExecutor(max_workers=1) as pool:
            # Each of the two is seconds of waiting for a slow guest.
            proof = pool.submit(_prove, level, plan, shell, run)
            try:
                inner = stack.enter_context(run.access.open_level_in(shell))
            finally:
                proof.result()
        guests = change.guests
        if any(it.action is Action.UNKNOWN for it in guests):
            # Nobody could look into it before; now it runs.
            look = Look(lab=run.lab, keys=run.keys, access=run.access, is_thorough=True, stop=run.stop)
            guests = compare(plan.guests, observe(inner, look))
            check_permitted(run.lab, guests, may_recreate=run.wishes.may_recreate)
        plan = replace(plan, guests=bring_up(inner, guests, plan.network, run))
        if change.action in {Action.CREATE, Action.RECREATE}:
            keep_answers(plan, shell, _boot_deadline(plan, run))
        return plan


def _is_proven(change: Change) -> bool:
    """Tell whether a guest, and all inside it, are as wanted by what they have said of themselves."""
    has_answered = change.observed is not None and change.observed.truth is not None
    return (
        change.action is Action.KEEP
        and has_answered
        and not _needs_preparation(change)
        and all(_is_proven(it) for it in change.guests)
    )


def _needs_preparation(change: Change) -> bool:
    truth = change.observed.truth if change.observed else None
    return change.plan is not None and truth is not None and needs_preparation(change.plan, truth)


def _verify_all(change: Change, run: Run) -> None:
    for it in walk_changes((change,)):
        if it.plan and it.observed and it.observed.truth:
            try:
                _verify(it.plan, parse_domain_type(it.observed.domain.live_xml), it.observed.truth)
            except NestctlError as error:
                run.failures.append(Failure(name=it.name, error=error))


def _verify(plan: GuestPlan, domain_type: str, truth: Truth) -> None:
    expect_seeded(plan.name, truth)
    if not plan.place.is_emulated:
        expect_accelerated(plan.name, domain_type, truth)
    if plan.is_hypervisor:
        expect_hypervisor(plan.name, truth)


def _prove(level: Level, plan: GuestPlan, shell: Shell, run: Run) -> None:
    """Raise `GuestError` unless a guest runs on what it is meant to run on, and can do what it is meant to do."""
    truth = read_truth(shell, _boot_deadline(plan, run))
    domain = level.hypervisor.find_domain(plan.domain)
    _verify(plan, parse_domain_type(domain.live_xml) if domain and domain.is_running else "absent", truth)


def _prepare_hypervisor(plan: GuestPlan, shell: Shell, run: Run) -> None:
    """Have a guest of a vendor's image made a hypervisor, unless it is one already."""
    truth = read_truth(shell, _boot_deadline(plan, run))
    expect_seeded(plan.name, truth)
    if needs_preparation(plan, truth):
        deadline = Deadline.after(_PREPARE_TIMEOUT_S, f"Making '{plan.name}' a hypervisor", stop=run.stop)
        with run.step(f"Making {plan.name} a hypervisor", lab=run.lab, node=plan.name, level=plan.level):
            prepare_hypervisor(plan, shell, lab_directory(run.lab) / "ssh_config", deadline)


def _boot_deadline(plan: GuestPlan, run: Run) -> Deadline:
    timeout_s = boot_timeout_s(plan.level, is_emulated=run.host.is_slow) * run.crowd
    if plan.place.firmware:
        timeout_s *= _CLOUD_INIT
    return Deadline.after(timeout_s, f"An answer from the guest '{plan.name}' by SSH", stop=run.stop)


def _start(level: Level, change: Change, plan: GuestPlan, run: Run, stack: ExitStack) -> tuple[GuestPlan, Shell]:
    """Have a guest as it is wanted, and wait for it; the connection to it is the stack's to close."""
    is_booting = change.action not in {Action.KEEP, Action.CHANGE}
    with run.slots:
        run.check()
        deadline = _boot_deadline(plan, run)
        how = "emulated by QEMU TCG" if plan.place.is_emulated else "KVM"
        text = f"{'Booting' if is_booting else 'Connecting to'} {plan.name} (level {plan.level}, {how})"
        with run.step(text, lab=run.lab, node=plan.name, level=plan.level):
            begun_s = time.monotonic()
            plan = _act(level, change, plan, run, deadline)
            opening = run.access.open_guest(level, plan.contact, run.keys, deadline, is_booting=is_booting)
            shell = stack.enter_context(opening)
        if is_booting:
            record_boot(run.lab, plan.name, time.monotonic() - begun_s)
    return plan, shell


def _start_silent(level: Level, change: Change, plan: GuestPlan, run: Run) -> GuestPlan:
    """Have a guest that does not answer as it is wanted: it runs, and what is in it is its user's business."""
    if change.action is Action.KEEP:
        return plan
    text = f"Starting {plan.name} (level {plan.level}, profile {plan.profile}); it is not waited for"
    with run.slots, run.step(text, lab=run.lab, node=plan.name, level=plan.level):
        run.check()
        plan = _act(level, change, plan, run, _boot_deadline(plan, run))
        if trouble := level.hypervisor.read_trouble(plan.domain):
            raise GuestError(f"The guest '{plan.name}' was started, and {trouble}.")
    return plan


def _act(level: Level, change: Change, plan: GuestPlan, run: Run, deadline: Deadline) -> GuestPlan:
    """Do to a guest what was planned, up to its start; return the plan with the port it got."""
    there = change.observed
    created = there.mark.created if there else ""
    if change.action is Action.CREATE:
        return create_guest(level, plan, run.keys, deadline)
    if change.action is Action.RECREATE:
        level.hypervisor.remove_domain(plan.domain)
        return create_guest(level, plan, run.keys, deadline)
    if change.action is Action.RESTART and there and plan.answers:
        stop_guest(level, there.contact, run.keys, run.access)
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


def _prune(level: Level, change: Change, run: Run) -> None:
    """Remove a guest that is not in the lab file any more, with its files and all that is inside it."""
    if there := change.observed:
        text = f"Removing {change.name}, which is not in the lab file"
        with run.step(text, lab=run.lab, node=change.name, level=there.mark.level):
            level.hypervisor.remove_domain(there.domain.name)
            remove_files(level.shell, there.contact.console.parent, change.name)


def _prepare(level: Level, plan: GuestPlan, network: NetworkPlan | None) -> None:
    """Get the level's network up while its libvirt probes QEMU, which takes seconds the first time."""
    domain_type = "qemu" if plan.place.is_emulated else "kvm"
    with ThreadPoolExecutor() as pool:
        waiting: list[Future[Any]] = [pool.submit(level.hypervisor.read_domain_capabilities, EMULATOR, domain_type)]
        if network:
            waiting.append(pool.submit(ensure_network, level.hypervisor, network))
        for future in waiting:
            future.result()
