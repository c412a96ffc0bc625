"""Make a lab be there, or be gone. Either can be interrupted anywhere and run again: it finishes the job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from nestctl.adapters.libvirt import Domain, Hypervisor, choose_uri
from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.errors import NestctlError
from nestctl.lab.guest import Action, create_guest, decide, start_guest
from nestctl.lab.host import Host, check_memory, ensure_lab_image, open_connection, plan_on, read_host
from nestctl.lab.keys import LabKeys, ensure_keys, read_keys
from nestctl.lab.level import Level, Step, boot_timeout_s, list_own_domains, open_guest, open_level_in
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
from nestctl.model.lab import Lab, walk_guests

EMULATION_NOTICE = (
    "nestctl: NO HARDWARE VIRTUALIZATION that guests could use: QEMU emulates the CPU and AMD SVM (TCG).\n"
    "  Guests work at every level, slowly. No time measured in them is the cost of hardware. See 'nestctl check'."
)

_LOCK_TIMEOUT_S = 3600.0

# How long a guest that is to be removed is given to answer, a level.
_REACH_TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """What stays the same while one lab is brought up."""

    lab: str
    host: Host
    keys: LabKeys
    step: Step


def up(lab: Lab, *, connect: str | None, step: Step, say: Callable[[str], None]) -> tuple[GuestPlan, ...]:
    """Bring every guest of a lab up, level by level, and prove that each runs on what it is meant to run on.

    Guests that run already are only looked at. Raises an error as soon as one guest fails; what was brought up until
    then stays, and the next `up` goes on from there.
    """
    host = read_host(connect)
    if host.is_emulated:
        say(EMULATION_NOTICE)
    ensure_lab_image(lab, step)
    lock = lock_lab(lab.name, Deadline.after(_LOCK_TIMEOUT_S, f"Waiting for another nestctl at work on '{lab.name}'"))
    with lock, open_connection(host.uri) as hypervisor:
        domains = hypervisor.list_domains()
        plans = plan_on(host, lab, domains)
        check_memory(plan for plan in plans if decide(plan, _find(domains, plan)) is not Action.KEEP)
        directory = keep_lab(lab)
        try:
            keys = ensure_keys(directory / "keys.json", (name for name, _ in walk_guests(lab.guests)))
            write_ssh_config(directory, plans, keys)
            run = Run(lab=lab.name, host=host, keys=keys, step=step)
            plans = bring_up(Level(shell=LocalShell(), hypervisor=hypervisor), plans, None, run)
        except BaseException:
            if not list_own_domains(hypervisor, lab.name):
                forget_lab(lab.name)
            raise
        # A port may have been taken, and replaced, between planning and starting.
        write_ssh_config(directory, plans, keys)
        return plans


def bring_up(
    level: Level, plans: tuple[GuestPlan, ...], network: NetworkPlan | None, run: Run
) -> tuple[GuestPlan, ...]:
    """Bring guests up on a level, and in each of them the guests inside it: the same code all the way down."""
    domains = level.hypervisor.list_domains()
    actions = {plan.name: decide(plan, _find(domains, plan)) for plan in plans}
    if set(actions.values()) != {Action.KEEP}:
        with run.step(f"Preparing {level.shell.where} for guests"):
            _prepare(level, plans, network)
    return tuple(_bring_up_one(level, plan, actions[plan.name], run) for plan in plans)


def _bring_up_one(level: Level, plan: GuestPlan, action: Action, run: Run) -> GuestPlan:
    timeout_s = boot_timeout_s(plan.level, is_emulated=run.host.is_slow)
    deadline = Deadline.after(timeout_s, f"An answer from the guest '{plan.name}' by SSH")
    with ExitStack() as stack:
        what = "Connecting to" if action is Action.KEEP else "Booting"
        how = "emulated by QEMU TCG" if plan.place.is_emulated else "KVM"
        with run.step(f"{what} {plan.name} (level {plan.level}, {how})"):
            begun_s = time.monotonic()
            if action is Action.CREATE:
                plan = create_guest(level, plan, run.keys, deadline)
            elif action is Action.START:
                plan = start_guest(level, plan)
            is_booting = action is not Action.KEEP
            shell = stack.enter_context(open_guest(level, plan.contact, run.keys, deadline, is_booting=is_booting))
        if is_booting:
            record_boot(run.lab, plan.name, time.monotonic() - begun_s)
        truth = read_truth(shell, deadline)
        expect_seeded(plan.name, truth)
        if not plan.place.is_emulated:
            domain = _find(level.hypervisor.list_domains(), plan)
            expect_accelerated(plan.name, parse_domain_type(domain.live_xml) if domain else "absent", truth)
        if not plan.is_hypervisor:
            return plan
        expect_hypervisor(plan.name, truth)
        if not plan.guests:
            return plan
        inner = stack.enter_context(open_level_in(shell))
        return replace(plan, guests=bring_up(inner, plan.guests, plan.network, run))


def _prepare(level: Level, plans: tuple[GuestPlan, ...], network: NetworkPlan | None) -> None:
    """Get the level's network up while its libvirt probes QEMU, which takes seconds the first time."""
    domain_type = "qemu" if plans[0].place.is_emulated else "kvm"
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
    with lock_lab(name, Deadline.after(_LOCK_TIMEOUT_S, f"Waiting for another nestctl at work on '{name}'")):
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
        with removal.step(f"Removing {contact.name}"):
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
