"""Bring one guest into being on a level, and take it away again. Both can be repeated."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePosixPath

from nestctl.adapters.refusals import PortTakenError
from nestctl.adapters.shell import Shell
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, NestctlError, PrerequisiteError
from nestctl.lab.access import Access
from nestctl.lab.addresses import choose_port
from nestctl.lab.cloud_seed import render_cloud_seed
from nestctl.lab.keys import LabKeys
from nestctl.lab.level import Level
from nestctl.lab.plan import Contact, GuestPlan
from nestctl.lab.qemu_answers import find_answers
from nestctl.lab.render import render_domain
from nestctl.lab.seed import render_seed
from nestctl.model.lab import BLANK

log = logging.getLogger(__name__)

_PORT_TRIES = 5

# How long a guest is given to switch itself off, a level.
_STOP_TIMEOUT_S = 60.0

# $1 seed, $2 disk, $3 its backing image, $4 its size. Both files appear whole or not at all, and are the owner's alone:
# the guest's private host key is in either. $6 is the format of the image, and $5 a directory for its kernel where the
# machine itself has none of this image: it is on the image, an ext4 file system; several guests may want it at once.
_PLACE_FILES = """
set -eu
mkdir -p "${1%/*}"
chmod 711 "${1%/*}"
umask 077
cat > "$1.new"
mv "$1.new" "$1"
qemu-img create -q -f qcow2 ${3:+-F "$6" -b "$3"} "$2.new" "$4"
mv "$2.new" "$2"
[ -n "$5" ] && [ ! -e "$5" ] || exit 0
mkdir -p "$5.$$/image"
trap 'umount "$5.$$/image" 2> /dev/null || :; rm -rf "$5.$$"' EXIT
trap 'exit 143' TERM
mount -t ext4 -o ro,noload "$3" "$5.$$/image"
cp "$5.$$/image/boot/vmlinuz" "$5.$$/image/boot/initrd" "$5.$$/"
umount "$5.$$/image"
rmdir "$5.$$/image"
chmod 644 "$5.$$"/*
chmod 711 "${5%/*}" "$5.$$"
mv -T "$5.$$" "$5" 2>/dev/null || [ -e "$5/vmlinuz" ]
"""


def create_guest(level: Level, plan: GuestPlan, keys: LabKeys, deadline: Deadline) -> GuestPlan:
    """Make a guest's files and domain and start it; return the plan with the port it got.

    When it fails, or is interrupted, nothing of the guest stays.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        with ThreadPoolExecutor(max_workers=1) as pool:
            # Neither needs the other, and both are slow in a slow guest.
            files = pool.submit(place_files, level.shell, plan, keys, deadline)
            define_guest(level, plan, created=created)
            files.result()
        return start_guest(level, plan, created=created)
    except BaseException:
        try:
            if level.hypervisor.find_domain(plan.domain):
                level.hypervisor.remove_domain(plan.domain)
            remove_files(level.shell, plan.place.directory, plan.name)
        except NestctlError as error:
            # What went wrong first is what the user has to know: often it is why this does not work, either.
            log.warning("what was made of '%s' could not be removed: %s", plan.name, error)
        raise


def define_guest(level: Level, plan: GuestPlan, *, created: str) -> None:
    """Have a guest's domain defined as planned; what is different takes effect when it is started the next time."""
    level.hypervisor.define_domain(render_domain(plan, created=created))


def start_guest(level: Level, plan: GuestPlan, *, created: str) -> GuestPlan:
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
            define_guest(level, plan, created=created)
        else:
            return plan


def stop_guest(level: Level, contact: Contact, keys: LabKeys, access: Access) -> None:
    """Have a guest switch itself off; one that does not in its time loses its power."""
    deadline = Deadline.after(_STOP_TIMEOUT_S * contact.level, f"The end of '{contact.name}'")
    try:
        with access.open_guest(level, contact, keys, deadline) as shell:
            shell.run(("systemctl", "--no-block", "poweroff"), deadline=deadline)
        for _ in deadline.poll(interval_s=0.1):
            if level.hypervisor.read_trouble(contact.domain):
                return
    except NestctlError as error:
        log.info("%s is stopped the hard way: %s", contact.name, error)
    level.hypervisor.stop_domain(contact.domain)


def place_files(shell: Shell, plan: GuestPlan, keys: LabKeys, deadline: Deadline) -> None:
    """Write a guest's seed, and make its disk anew: an overlay on the image."""
    kernel = plan.place.kernel.parent if plan.place.is_kernel_copied else ""
    base, size = "" if plan.image == BLANK else plan.place.base, f"{plan.disk_gib}G"
    command = ("sh", "-c", _PLACE_FILES, "sh", plan.seed, plan.disk, base, size, kernel, plan.place.base_format)
    seed = render_cloud_seed(plan, keys) if plan.place.firmware else render_seed(plan, keys, find_answers(plan))
    completed = shell.run([str(word) for word in command], deadline=deadline, stdin=seed)
    if completed.exit_code == 0:
        return
    said = completed.stderr.decode(errors="replace").strip()
    message = f"The disk of '{plan.name}' could not be made on {shell.where}: {said}"
    if "No space left" in said or "Disk quota" in said:
        raise PrerequisiteError(message, hint=f"Free some space in '{plan.place.directory}' on {shell.where}.")
    raise FailedError(message)


def remove_files(shell: Shell, directory: PurePosixPath, name: str) -> None:
    """Remove a guest's seed, disk and console, as far as they are there."""
    paths = [str(directory / f"{name}.{kind}") for kind in ("seed.tar", "seed.iso", "qcow2", "console.log")]
    deadline = Deadline.after(60, f"Removing the files of '{name}'")
    shell.run(("rm", "-f", *paths, *(f"{path}.new" for path in paths)), deadline=deadline).expect_success()
