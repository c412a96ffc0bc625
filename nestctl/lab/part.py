"""A part of a lab: a guest with all that is inside it, removed or made anew while the rest runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, UsageError
from nestctl.lab.access import SshAccess
from nestctl.lab.bring_up import Wishes
from nestctl.lab.converge import up
from nestctl.lab.guest import remove_files, stop_guest
from nestctl.lab.host import open_connection, plan_on, read_host
from nestctl.lab.keys import read_keys
from nestctl.lab.level import Level, Step, boot_timeout_s
from nestctl.lab.nodes import Node, list_nodes, list_outermost_made
from nestctl.lab.plan import GuestPlan
from nestctl.lab.preview import preview_changes
from nestctl.lab.render import parse_mark
from nestctl.lab.ssh_access import open_guest, open_level_in
from nestctl.lab.store import lab_directory, lock_lab
from nestctl.model.lab import Lab


def reset_guest(lab: Lab, node: Node, *, connect: str | None, step: Step, say: Callable[[str], None]) -> None:
    """Make a guest anew, with all that is inside it: new disks, the same names, addresses, keys and host keys.

    The rest of the lab is left as it is, what is off as well; only the guests it is in are started, if they are.
    """
    with (
        _open_level_of(lab, node, connect) as (level, plan),
        step(f"Removing {node.name}", lab=lab.name, node=node.name, level=node.level),
    ):
        _remove(level, plan)
    up(lab, connect=connect, step=step, say=say, wishes=Wishes(only=node.path))


def stop_node(lab: Lab, node: Node, *, connect: str | None, step: Step) -> None:
    """Have a guest switch itself off, with all that is inside it; one that is off stays so.

    Raises `UsageError` for a domain that was adopted.
    """
    if node.guest.adopt:
        raise UsageError(f"The guest '{node.name}' is a domain that was adopted: nestctl does not stop it.")
    with _open_level_of(lab, node, connect) as (level, plan):
        found = level.hypervisor.find_domain(plan.domain)
        if found and found.is_running:
            with step(f"Stopping {node.name}", lab=lab.name, node=node.name, level=node.level):
                stop_guest(level, plan.contact, read_keys(lab_directory(lab.name) / "keys.json"), SshAccess())


@contextmanager
def _open_level_of(lab: Lab, node: Node, connect: str | None) -> Iterator[tuple[Level, GuestPlan]]:
    """Open the level that runs a guest, with the guest's plan, and be the only one who changes the lab meanwhile."""
    host = read_host(connect)
    with lock_lab(lab.name), open_connection(host.uri) as hypervisor, ExitStack() as stack:
        level = Level(shell=LocalShell(), hypervisor=hypervisor)
        inside = plan_on(host, lab, hypervisor.list_domains(), hypervisor.list_networks())
        for name in node.path[:-1]:
            outer = _find(inside, name)
            timeout_s = boot_timeout_s(outer.level, is_emulated=host.is_emulated)
            deadline = Deadline.after(timeout_s, f"An answer from '{name}' by SSH")
            keys = read_keys(lab_directory(lab.name) / "keys.json")
            shell = stack.enter_context(open_guest(level, outer.contact, keys, deadline))
            level, inside = stack.enter_context(open_level_in(shell)), outer.guests
        yield level, _find(inside, node.name)


def expect_settled(lab: Lab, connect: str | None) -> None:
    """Raise `UsageError` unless the lab is up as its file says: it is to be put back to that."""
    if not preview_changes(lab, connect=connect).is_settled:
        raise UsageError(
            f"The lab '{lab.name}' is not up as its file says, so it could not be put back.",
            hint="'nestctl plan' shows what differs; bring it up with 'nestctl up' first.",
        )


def boot_anew(lab: Lab, *, connect: str | None, step: Step) -> None:
    """Switch all guests of a lab off, and bring them up again with the disks they have.

    A domain that was adopted runs on: it is the guests inside it that are booted.
    """
    for node in list_outermost_made(list_nodes(lab)):
        stop_node(lab, node, connect=connect, step=step)
    up(lab, connect=connect, step=step, say=lambda _text: None)


def remove_guests(lab: Lab, names: Iterable[str], *, connect: str | None, step: Step) -> None:
    """Remove guests of this machine, by name, with all that is inside them; the rest of the lab stays."""
    host = read_host(connect)
    with lock_lab(lab.name), open_connection(host.uri) as hypervisor:
        plans = plan_on(host, lab, hypervisor.list_domains(), hypervisor.list_networks())
        for name in names:
            with step(f"Removing {name}", lab=lab.name, node=name, level=1):
                _remove(Level(shell=LocalShell(), hypervisor=hypervisor), _find(plans, name))


def _remove(level: Level, plan: GuestPlan) -> None:
    """Remove a guest's domain and files; those inside it are on its disk. Raises `FailedError` when it is not ours."""
    if plan.adopted:
        raise UsageError(f"The guest '{plan.name}' is a domain that was adopted: nestctl does not remove it.")
    found = next((it for it in level.hypervisor.list_domains() if it.name == plan.domain), None)
    if found:
        mark = parse_mark(found.xml)
        if mark is None or mark.lab != plan.lab:
            raise FailedError(
                f"The domain '{plan.domain}' on {level.shell.where} does not belong to the lab '{plan.lab}'.",
                hint="nestctl removes only what it made.",
            )
        level.hypervisor.remove_domain(plan.domain)
    remove_files(level.shell, plan.place.directory, plan.name)


def _find(plans: Iterable[GuestPlan], name: str) -> GuestPlan:
    return next(plan for plan in plans if plan.name == name)
