"""Bring guests up on a level, and inside them the guests inside: the same code all the way down."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from nestctl.adapters.shell import Shell
from nestctl.deadline import Deadline
from nestctl.errors import GuestError, NestctlError
from nestctl.lab.access import Access
from nestctl.lab.act import act, remove_superfluous
from nestctl.lab.admission import STARTING
from nestctl.lab.adopt import COPY_TIMEOUT_S, place_images
from nestctl.lab.adoption import read_adoptions
from nestctl.lab.compare import Action, Change, check_permitted, compare
from nestctl.lab.host import Host
from nestctl.lab.hypervisor import needs_preparation, prepare_hypervisor
from nestctl.lab.keys import LabKeys
from nestctl.lab.level import Level, Step, boot_timeout_s
from nestctl.lab.network_plan import NetworkPlan
from nestctl.lab.networks import ensure_network, is_up, remove_networks
from nestctl.lab.observe import Look, observe
from nestctl.lab.parallel import DEFAULT_JOBS, Failure, run_all
from nestctl.lab.plan import GuestPlan
from nestctl.lab.prove import is_proven, prove, verify_all
from nestctl.lab.qemu_answers import keep_answers
from nestctl.lab.remove import Removal, release
from nestctl.lab.render import EMULATOR
from nestctl.lab.store import lab_directory, record_boot
from nestctl.lab.verify import expect_seeded, read_truth

log = logging.getLogger(__name__)

# Packages are installed from the network.
_PREPARE_TIMEOUT_S = 3600.0

# How much more time a vendor's image is given than the built one: firmware, boot loader, cloud-init, and its packages.
_CLOUD_INIT = 5


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
    if is_proven(change):
        run.failures.extend(verify_all(change))
        return plan
    if not plan.answers:
        return _start_silent(level, change, plan, run)
    with ExitStack() as stack:
        plan, shell = _start(level, change, plan, run, stack)
        if plan.is_hypervisor and plan.place.firmware:
            _prepare_hypervisor(plan, shell, run)
        if not plan.guests and not change.guests:
            prove(level, plan, shell, _boot_deadline(plan, run))
            return plan
        with ThreadPoolExecutor(max_workers=1) as pool:
            # Each of the two is seconds of waiting for a slow guest.
            proof = pool.submit(prove, level, plan, shell, _boot_deadline(plan, run))
            try:
                inner = stack.enter_context(run.access.open_level_in(shell))
            finally:
                proof.result()
        guests = change.guests
        if change.action is Action.ADOPT or any(it.action is Action.UNKNOWN for it in guests):
            # Nobody could look into it before; now it runs.
            look = Look(lab=run.lab, keys=run.keys, access=run.access, is_thorough=True, stop=run.stop)
            guests = compare(plan.guests, observe(inner, look))
            check_permitted(run.lab, guests, may_recreate=run.wishes.may_recreate)
        if plan.images and any(it.action in STARTING for it in guests):
            _place_images(plan, shell, run)
        plan = replace(plan, guests=bring_up(inner, guests, plan.network, run))
        if change.action in {Action.CREATE, Action.RECREATE}:
            keep_answers(plan, shell, _boot_deadline(plan, run))
        return plan


def _prepare_hypervisor(plan: GuestPlan, shell: Shell, run: Run) -> None:
    """Have a guest of a vendor's image made a hypervisor, unless it is one already."""
    truth = read_truth(shell, _boot_deadline(plan, run))
    expect_seeded(plan.name, truth)
    if needs_preparation(plan, truth):
        deadline = Deadline.after(_PREPARE_TIMEOUT_S, f"Making '{plan.name}' a hypervisor", stop=run.stop)
        with run.step(f"Making {plan.name} a hypervisor", lab=run.lab, node=plan.name, level=plan.level):
            prepare_hypervisor(plan, shell, lab_directory(run.lab) / "ssh_config", deadline)


def _place_images(plan: GuestPlan, shell: Shell, run: Run) -> None:
    deadline = Deadline.after(COPY_TIMEOUT_S, f"Copying images into '{plan.name}'", stop=run.stop)
    with run.step(f"Copying images into {plan.name}", lab=run.lab, node=plan.name, level=plan.level):
        place_images(plan, shell, deadline)


def _boot_deadline(plan: GuestPlan, run: Run) -> Deadline:
    timeout_s = boot_timeout_s(plan.level, is_emulated=run.host.is_slow) * run.crowd
    if plan.place.firmware:
        timeout_s *= _CLOUD_INIT
    return Deadline.after(timeout_s, f"An answer from the guest '{plan.name}' by SSH", stop=run.stop)


def _start(level: Level, change: Change, plan: GuestPlan, run: Run, stack: ExitStack) -> tuple[GuestPlan, Shell]:
    """Have a guest as it is wanted, and wait for it; the connection to it is the stack's to close."""
    is_booting = change.action not in {Action.KEEP, Action.CHANGE, Action.ADOPT}
    with run.slots:
        run.check()
        deadline = _boot_deadline(plan, run)
        how = "emulated by QEMU TCG" if plan.place.is_emulated else "KVM"
        doing = "Booting" if is_booting else "Adopting" if change.action is Action.ADOPT else "Connecting to"
        text = f"{doing} {plan.name} (level {plan.level}, {how})"
        with run.step(text, lab=run.lab, node=plan.name, level=plan.level):
            begun_s = time.monotonic()
            plan = act(level, change, plan, keys=run.keys, access=run.access, deadline=deadline)
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
        plan = act(level, change, plan, keys=run.keys, access=run.access, deadline=_boot_deadline(plan, run))
        if trouble := level.hypervisor.read_trouble(plan.domain):
            raise GuestError(f"The guest '{plan.name}' was started, and {trouble}.")
    return plan


def _prune(level: Level, change: Change, run: Run) -> None:
    if change.observed and change.observed.mark.is_adopted:
        adoption = next(it for it in read_adoptions(run.lab) if it.name == change.name)
        removal = Removal(lab=run.lab, keys=run.keys, step=run.step, warn=log.warning, access=run.access, stop=run.stop)
        release(level, adoption, removal)
        return
    text = f"Removing {change.name}, which is not in the lab file"
    with run.step(text, lab=run.lab, node=change.name, level=change.level):
        remove_superfluous(level, change)


def _prepare(level: Level, plan: GuestPlan, network: NetworkPlan | None) -> None:
    """Get the level's network up, where its libvirt has not; meanwhile that probes QEMU, which takes seconds."""
    if network is None or is_up(level.hypervisor, network):
        return
    domain_type = "qemu" if plan.place.is_emulated else "kvm"
    with ThreadPoolExecutor(max_workers=1) as pool:
        probe = pool.submit(level.hypervisor.read_domain_capabilities, EMULATOR, domain_type)
        ensure_network(level.hypervisor, network)
        probe.result()
