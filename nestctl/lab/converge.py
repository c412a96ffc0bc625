"""Make a lab be there, as its plan says. It can be interrupted anywhere and run again: it finishes the job."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from nestctl.adapters.libvirt import Hypervisor
from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Shell
from nestctl.deadline import Deadline
from nestctl.errors import NestctlError
from nestctl.lab.guest import Action, create_guest, decide, start_guest
from nestctl.lab.host import Host, check_memory, ensure_lab_image, open_connection, plan_on, read_host
from nestctl.lab.keys import LabKeys, ensure_lab_keys, read_keys
from nestctl.lab.level import Level, Step, boot_timeout_s, list_own_domains, open_guest, open_level_in
from nestctl.lab.lifetime import ensure_expiry, now_utc
from nestctl.lab.plan import GUEST_DIRECTORY, Contact, GuestPlan, NetworkPlan
from nestctl.lab.render import (
    EMULATOR,
    parse_contact,
    parse_domain_type,
    parse_network_owner,
    render_network,
)
from nestctl.lab.ssh_config import write_ssh_config
from nestctl.lab.store import forget_lab, keep_lab, lab_directory, lock_lab, record_boot
from nestctl.lab.verify import expect_accelerated, expect_hypervisor, expect_seeded, read_truth
from nestctl.model.lab import Lab

EMULATION_NOTICE = (
    "nestctl: NO HARDWARE VIRTUALIZATION that guests could use: QEMU emulates the CPU and AMD SVM (TCG).\n"
    "  Guests work at every level, slowly. No time measured in them is the cost of hardware. See 'nestctl check'."
)

LOCK_TIMEOUT_S = 3600.0

# One more than there are CPUs: a guest that boots waits for its disk and its clocks now and then.
DEFAULT_JOBS = (os.cpu_count() or 1) + 1


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What `up` may do, and how much of it at once: `jobs` guests boot at the same time, at all levels together."""

    jobs: int = DEFAULT_JOBS
    may_recreate: bool = False
    may_prune: bool = False


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
    ensure_lab_image(lab, step)
    lock = lock_lab(lab.name, Deadline.after(LOCK_TIMEOUT_S, f"Waiting for another nestctl at work on '{lab.name}'"))
    with lock, open_connection(host.uri) as hypervisor:
        domains = hypervisor.list_domains()
        plans = plan_on(host, lab, domains)
        check_memory(plan for plan in plans if decide(plan, _find(domains, plan)) is not Action.KEEP)
        directory = keep_lab(lab)
        try:
            keys = ensure_lab_keys(directory / "keys.json", lab)
            write_ssh_config(directory, plans, keys)
            run = Run(lab=lab.name, host=host, keys=keys, step=step)
            plans = bring_up(Level(shell=LocalShell(), hypervisor=hypervisor), plans, None, run)
            ensure_expiry(hypervisor, lab, now_utc())
        except BaseException:
            if not list_own_domains(hypervisor, lab.name):
                forget_lab(lab.name)
            raise
        # A port may have been taken, and replaced, between planning and starting.
        write_ssh_config(directory, plans, keys)
        return plans


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
) -> tuple[GuestPlan, ...]:
    """Do what `up` does, on a level that is open, which has `room`."""
    there = observe(level, Look(lab=lab.name, keys=find_keys(lab.name), access=access, is_thorough=True))
    plans = plan_on(host, lab, (it.domain for it in there.guests), level.hypervisor.list_networks())
    changes = compare(plans, there)
    check_permitted(lab.name, changes, may_recreate=wishes.may_recreate)
    for warning in check_room(changes, room):
        say(f"nestctl: warning: {warning}")
    _say_superfluous(lab.name, changes, wishes, say)
    directory = keep_lab(lab)
    try:
        keys = ensure_keys(directory / "keys.json", (name for name, _ in walk_guests(lab.guests)))
        write_ssh_config(directory, plans, keys)
        run = Run(
            lab=lab.name,
            host=host,
            keys=keys,
            step=step,
            access=access,
            wishes=wishes,
            slots=threading.Semaphore(max(wishes.jobs, 1)),
            crowd=max(1, min(wishes.jobs, sum(not it.is_settled for it in walk_changes(changes)))),
        )
        plans = bring_up(level, changes, None, run)
    except BaseException:
        _forget_if_unused(level.hypervisor, lab.name)
        raise
    # A port may have been taken, and replaced, between planning and starting.
    write_ssh_config(directory, plans, keys)
    _forget_if_unused(level.hypervisor, lab.name)
    raise_failures(run.failures)
    return plans


def raise_failures(failures: list[Failure]) -> None:
    """Raise the error of the only guest that failed, or one that has all of them, with the worst exit code."""
    if len(failures) == 1:
        raise failures[0].error
    if failures:
        raise SeveralError([(it.name, it.error) for it in failures])


def _forget_if_unused(hypervisor: Hypervisor, lab: str) -> None:
    if not list_own_domains(hypervisor, lab):
        forget_lab(lab)


def _say_superfluous(lab: str, changes: tuple[Change, ...], wishes: Wishes, say: Callable[[str], None]) -> None:
    names = [it.name for it in walk_changes(changes) if it.action is Action.REMOVE]
    if names and not wishes.may_prune:
        say(f"nestctl: warning: not in the lab file any more: {', '.join(names)}. 'up --prune' removes what is not.")


def bring_up(level: Level, changes: tuple[Change, ...], network: NetworkPlan | None, run: Run) -> tuple[GuestPlan, ...]:
    """Bring guests up on a level, and in each of them the guests inside it: the same code all the way down."""
    domains = level.hypervisor.list_domains()
    actions = {plan.name: decide(plan, _find(domains, plan)) for plan in plans}
    if set(actions.values()) != {Action.KEEP}:
        with run.step(f"Preparing {level.shell.where} for guests", lab=run.lab):
            _prepare(level, plans, network)
    return tuple(_bring_up_one(level, plan, actions[plan.name], run) for plan in plans)


def _try_guest(level: Level, change: Change, plan: GuestPlan, run: Run) -> GuestPlan:
    """Bring one guest up; its failure is noted, and is no reason to leave the others."""
    run.check()
    try:
        return _bring_up_one(level, change, plan, run)
    except NestctlError as error:
        run.failures.append(Failure(name=plan.name, error=error))
        return plan


def _bring_up_one(level: Level, change: Change, plan: GuestPlan, run: Run) -> GuestPlan:
    if _is_proven(change):
        _verify_all(change, run)
        return plan
    with ExitStack() as stack:
        plan, shell = _start(level, change, plan, run, stack)
        if not plan.guests and not change.guests:
            return plan
        inner = stack.enter_context(run.access.open_level_in(shell))
        guests = change.guests
        if any(it.action is Action.UNKNOWN for it in guests):
            # Nobody could look into it before; now it runs.
            look = Look(lab=run.lab, keys=run.keys, access=run.access, is_thorough=True, stop=run.stop)
            guests = compare(plan.guests, observe(inner, look))
            check_permitted(run.lab, guests, may_recreate=run.wishes.may_recreate)
        return replace(plan, guests=bring_up(inner, guests, plan.network, run))


def _is_proven(change: Change) -> bool:
    """Tell whether a guest, and all inside it, are as wanted by what they have said of themselves."""
    has_answered = change.observed is not None and change.observed.truth is not None
    return change.action is Action.KEEP and has_answered and all(_is_proven(it) for it in change.guests)


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


def _start(level: Level, change: Change, plan: GuestPlan, run: Run, stack: ExitStack) -> tuple[GuestPlan, Shell]:
    """Have a guest as it is wanted, wait for it, and prove it; the connection to it is the stack's to close."""
    is_booting = change.action not in {Action.KEEP, Action.CHANGE}
    with run.slots:
        run.check()
        timeout_s = boot_timeout_s(plan.level, is_emulated=run.host.is_slow) * run.crowd
        deadline = Deadline.after(timeout_s, f"An answer from the guest '{plan.name}' by SSH", stop=run.stop)
        how = "emulated by QEMU TCG" if plan.place.is_emulated else "KVM"
        with run.step(f"{what} {plan.name} (level {plan.level}, {how})", lab=run.lab, node=plan.name, level=plan.level):
            begun_s = time.monotonic()
            plan = _act(level, change, plan, run, deadline)
            opening = run.access.open_guest(level, plan.contact, run.keys, deadline, is_booting=is_booting)
            shell = stack.enter_context(opening)
        if is_booting:
            record_boot(run.lab, plan.name, time.monotonic() - begun_s)
        truth = read_truth(shell, deadline)
    domain = level.hypervisor.find_domain(plan.domain)
    _verify(plan, parse_domain_type(domain.live_xml) if domain and domain.is_running else "absent", truth)
    return plan, shell


def _act(level: Level, change: Change, plan: GuestPlan, run: Run, deadline: Deadline) -> GuestPlan:
    """Do to a guest what was planned, up to its start; return the plan with the port it got."""
    there = change.observed
    created = there.mark.created if there else ""
    if change.action is Action.CREATE:
        return create_guest(level, plan, run.keys, deadline)
    if change.action is Action.RECREATE:
        level.hypervisor.remove_domain(plan.domain)
        return create_guest(level, plan, run.keys, deadline)
    if change.action is Action.RESTART and there:
        stop_guest(level, there.contact, run.keys, run.access)
    if change.differences:
        define_guest(level, plan, created=created)
    if change.action in {Action.START, Action.RESTART}:
        return start_guest(level, plan, created=created)
    return plan


def _prune(level: Level, change: Change, run: Run) -> None:
    """Remove a guest that is not in the lab file any more, with its files and all that is inside it."""
    if there := change.observed:
        with run.step(f"Removing {change.name}, which is not in the lab file"):
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


def ensure_network(hypervisor: Hypervisor, network: NetworkPlan) -> None:
    """Have a network defined and started. Its XML is sent only when it is not there."""
    there = {observed.name: observed for observed in hypervisor.list_networks()}
    if network.name not in there:
        hypervisor.define_network(render_network(network))
    if network.name not in there or not there[network.name].is_active:
        hypervisor.start_network(network.name)


def down(name: str, *, connect: str | None, step: Step, warn: Callable[[str], None]) -> bool:
    """Remove everything `up` made of a lab, innermost guests first, and nothing else. Return whether there was any.

    A guest that cannot be reached is removed with all that is inside it, and `warn` is told.
    """
    with lock_lab(name, Deadline.after(LOCK_TIMEOUT_S, f"Waiting for another nestctl at work on '{name}'")):
        directory = lab_directory(name)
        with open_connection(choose_uri(connect)) as hypervisor:
            is_there = directory.exists() or bool(list_own_domains(hypervisor, name))
            keys = read_keys(directory / "keys.json") if (directory / "keys.json").exists() else None
            take_down(
                Level(shell=LocalShell(), hypervisor=hypervisor), Removal(lab=name, keys=keys, step=step, warn=warn)
            )
        forget_lab(name)
    return is_there


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What stays the same while one lab is removed; `keys` are None when they are lost."""

    lab: str
    keys: LabKeys | None
    step: Step
    warn: Callable[[str], None]


def take_down(level: Level, removal: Removal) -> None:
    """Remove a lab's guests from a level, and before each the guests inside it; then the lab's networks."""
    for domain, mark in list_own_domains(level.hypervisor, removal.lab):
        contact = parse_contact(domain.name, domain.xml)
        if domain.is_running and removal.keys and mark.is_hypervisor:
            try:
                _take_down_inside(level, contact, removal.keys, removal)
            except NestctlError as error:
                removal.warn(f"What is inside '{contact.name}' goes with it unseen: {error.message.splitlines()[0]}")
        with removal.step(f"Removing {contact.name}", lab=contact.lab, node=contact.name, level=contact.level):
            level.hypervisor.remove_domain(domain.name)
    for network in level.hypervisor.list_networks():
        if parse_network_owner(network.xml) == removal.lab:
            level.hypervisor.remove_network(network.name)


def _take_down_inside(level: Level, contact: Contact, keys: LabKeys, removal: Removal) -> None:
    deadline = Deadline.after(_REACH_TIMEOUT_S * contact.level, f"An answer from '{contact.name}' by SSH")
    with open_guest(level, contact, keys, deadline) as shell, open_level_in(shell) as inner:
        take_down(inner, removal)
        shell.run(("rm", "-rf", str(GUEST_DIRECTORY / removal.lab)), deadline=deadline).expect_success()


def _find(domains: Iterable[Domain], plan: GuestPlan) -> Domain | None:
    return next((domain for domain in domains if domain.name == plan.domain), None)
