"""Bring one guest into being on a level, and take it away again. Both can be repeated."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from nestctl.adapters.libvirt import Domain, PortTakenError
from nestctl.adapters.shell import Shell
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, PrerequisiteError, UsageError
from nestctl.lab.addresses import choose_port
from nestctl.lab.keys import LabKeys
from nestctl.lab.level import Level
from nestctl.lab.plan import GuestPlan
from nestctl.lab.render import parse_mark, render_domain
from nestctl.lab.seed import render_seed

_PORT_TRIES = 5

# $1 seed, $2 disk, $3 its backing image, $4 its size. Both files appear whole or not at all, and are the owner's alone:
# the guest's private host key is in either.
_PLACE_FILES = """
set -eu
mkdir -p "${1%/*}"
chmod 711 "${1%/*}"
umask 077
cat > "$1.new"
mv "$1.new" "$1"
qemu-img create -q -f qcow2 -F raw -b "$3" "$2.new" "$4"
mv "$2.new" "$2"
"""


class Action(Enum):
    """What has to be done so that a guest runs as planned."""

    CREATE = "create"
    START = "start"
    KEEP = "keep"


def decide(plan: GuestPlan, observed: Domain | None) -> Action:
    """Decide what a guest needs. Raises an error when a domain is in the way or was made with other settings."""
    if observed is None:
        return Action.CREATE
    mark = parse_mark(observed.xml)
    if mark is None or mark.lab != plan.lab:
        raise FailedError(
            f"A domain '{plan.domain}' that does not belong to the lab '{plan.lab}' is there already.",
            hint="Give the lab another name; nestctl changes only what it made.",
        )
    if mark.digest != plan.digest:
        raise UsageError(
            f"The guest '{plan.name}' exists with other settings than it would be given now.",
            hint="The lab file, the image or nestctl has changed. Restore what it was, or remove the lab with "
            f"'nestctl down {plan.lab}' and bring it up again.",
        )
    return Action.KEEP if observed.is_running else Action.START


def create_guest(level: Level, plan: GuestPlan, keys: LabKeys, deadline: Deadline) -> GuestPlan:
    """Make a guest's files and domain and start it; return the plan with the port it got.

    When it fails, or is interrupted, nothing of the guest stays.
    """
    try:
        place_files(level.shell, plan, keys, deadline)
        level.hypervisor.define_domain(render_domain(plan))
        return start_guest(level, plan)
    except BaseException:
        if any(domain.name == plan.domain for domain in level.hypervisor.list_domains()):
            level.hypervisor.remove_domain(plan.domain)
        remove_files(level.shell, plan)
        raise


def start_guest(level: Level, plan: GuestPlan) -> GuestPlan:
    """Start a guest that is defined. A forwarded port that was taken meanwhile is replaced by the next free one."""
    avoid: list[int] = []
    while True:
        try:
            level.hypervisor.start_domain(plan.domain)
        except PortTakenError:
            avoid.append(plan.uplink.port)
            if len(avoid) >= _PORT_TRIES:
                raise
            port = choose_port(plan.lab, plan.name, avoid)
            plan = replace(plan, uplink=replace(plan.uplink, port=port))
            level.hypervisor.define_domain(render_domain(plan))
        else:
            return plan


def place_files(shell: Shell, plan: GuestPlan, keys: LabKeys, deadline: Deadline) -> None:
    """Write a guest's seed, and make its disk anew: an overlay on the image."""
    command = ("sh", "-c", _PLACE_FILES, "sh", plan.seed, plan.disk, plan.place.base, f"{plan.disk_gib}G")
    seed = render_seed(plan, keys)
    completed = shell.run([str(word) for word in command], deadline=deadline, stdin=seed)
    if completed.exit_code == 0:
        return
    said = completed.stderr.decode(errors="replace").strip()
    message = f"The disk of '{plan.name}' could not be made on {shell.where}: {said}"
    if "No space left" in said or "Disk quota" in said:
        raise PrerequisiteError(message, hint=f"Free some space in '{plan.place.directory}' on {shell.where}.")
    raise FailedError(message)


def remove_files(shell: Shell, plan: GuestPlan) -> None:
    paths = [str(path) for path in (plan.seed, plan.disk, plan.console)]
    deadline = Deadline.after(60, f"Removing the files of '{plan.name}'")
    shell.run(("rm", "-f", *paths, *(f"{path}.new" for path in paths)), deadline=deadline).expect_success()
