"""Go into a machine that somebody else made, have it ready for guests, and leave it as it was found.

What changes in it: a line of the account's authorized_keys, which lab has it and the images, both in /var/lib/nestctl,
and what `up` makes in any guest.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import yaml

from nestctl.adapters.shell import Shell
from nestctl.adapters.uri import choose_uri
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, GuestError, PrerequisiteError, UsageError
from nestctl.lab.access import Access
from nestctl.lab.addresses import parse_subnets
from nestctl.lab.adoption import drop_adoption, keep_adoption, look_at_domain
from nestctl.lab.host import open_connection
from nestctl.lab.host_facts import Adopted
from nestctl.lab.keys import LabKeys
from nestctl.lab.level import Level
from nestctl.lab.place import ImageFacts, guest_image_directory
from nestctl.lab.plan import GuestPlan
from nestctl.lab.render import EMULATOR
from nestctl.model.adopt import Adopt
from nestctl.model.lab import NAME_PATTERN

# In one piece is sent so much of an image, and nothing of what is empty.
_PIECE_MIB = 64

# An image of 0.6 GiB, into an emulated guest on two busy CPUs, took 160 s.
COPY_TIMEOUT_S = 3600.0

_LOOK_TIMEOUT_S = 60.0

_PLAYBOOK = "'ansible-playbook -i HOST, playbooks/l1-kvm.yml' makes a machine a hypervisor that nestctl can use."

# $1 a file, $2 where in it, in MiB; what is put there comes packed, as SSH is slow in an emulated guest. When unpacking
# fails the shell ends itself: a pipeline says only how its last command ended.
_PUT = '{ gzip -dc || kill $$; } | dd of="$1" bs=1M seek="$2" conv=notrunc iflag=fullblock status=none'

# Whose line in the account's authorized_keys it is.
_TAG = "nestctl-adopted"

# That line again: it keeps another lab from the same machine, wherever that lab is kept and as whomever it comes.
_HELD = "/var/lib/nestctl/adopted"

# Prints what is missing, the subnets it has a route to, which domain it is (the UUID that QEMU puts into SMBIOS), and
# the line of the lab that has adopted it. modprobe is for a machine that was made a hypervisor and not started since;
# /dev/kvm may be there without a module as well.
_LOOK = f"""
export PATH="$PATH:/usr/sbin:/sbin"
for program in qemu-img virsh virt-ssh-helper {EMULATOR}; do
    command -v $program > /dev/null || echo "missing=the program '$program'"
done
modprobe -q kvm_intel || modprobe -q kvm_amd
[ -e /sys/module/kvm_intel ] || [ -e /sys/module/kvm_amd ] || echo "missing=KVM's module (kvm_intel or kvm_amd)"
ip -4 route show | sed -n 's|^\\([0-9.]*/[0-9]*\\) .*|route=\\1|p'
sed 's/^/uuid=/' /sys/class/dmi/id/product_uuid 2> /dev/null
sed 's/^/held=/' {_HELD} 2> /dev/null
exit 0
"""

# $1 the line that lets the lab in, for the account $2. The file of keys is never there in part: a copy with its owner
# and mode takes its place. The line comes first, as the last one need not end with a newline; and an account that had
# no such file is left without one in the end.
_LET_IN = f"""
set -eu
mkdir -p {_HELD.rpartition("/")[0]}
echo "$1" > {_HELD}
home=$(getent passwd "$2" | cut -d: -f6)
[ -d "$home/.ssh" ] || {{ mkdir -m 700 "$home/.ssh"; chown "$2": "$home/.ssh"; }}
keys=$(readlink -f "$home/.ssh/authorized_keys")
grep -qsxF -e "$1" "$keys" && exit
[ -e "$keys" ] || {{ (umask 077; : > "$keys"); chown "$2": "$keys"; }}
cp -a "$keys" "$keys.nestctl"
{{ echo "$1"; cat "$keys"; }} > "$keys.nestctl"
mv "$keys.nestctl" "$keys"
"""
_LEAVE = f"""
set -eu
keys=$(readlink -f "$(getent passwd "$2" | cut -d: -f6)/.ssh/authorized_keys") || true
if [ -e "$keys" ]; then
    cp -a "$keys" "$keys.nestctl"
    sed "\\|^$1\\$|d" "$keys" > "$keys.nestctl"
    mv "$keys.nestctl" "$keys"
    [ -s "$keys" ] || {{ rm "$keys"; rmdir "${{keys%/*}}" 2> /dev/null || true; }}
fi
rm -rf /var/lib/nestctl/images {_HELD}
rmdir /var/lib/nestctl/guests /var/lib/nestctl 2> /dev/null || true
"""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a machine says of itself: the subnets it has routes to, its UUID, and the line of the lab that has it."""

    routes: tuple[str, ...]
    uuid: str
    held: str


def look_inside(shell: Shell, deadline: Deadline) -> Machine:
    """Look at a machine. Raises `PrerequisiteError` when it lacks what a hypervisor needs."""
    said = shell.run(("sh", "-c", _LOOK), deadline=deadline).expect_success().text
    lines = [line.partition("=") for line in said.splitlines()]
    if lacking := [value for key, _, value in lines if key == "missing"]:
        raise PrerequisiteError(f"{shell.where} is no hypervisor: {', '.join(lacking)} is not there.", hint=_PLAYBOOK)
    values = {key: value for key, _, value in lines}
    return Machine(
        routes=tuple(value for key, _, value in lines if key == "route"),
        uuid=values.get("uuid", "").lower(),
        held=values.get("held", ""),
    )


def check_machine(machine: Machine, adopted: Adopted, own_line: str = "") -> None:
    """Raise `UsageError` when a machine is not the domain, or another lab has it."""
    if machine.uuid and machine.uuid != adopted.uuid:
        raise UsageError(
            f"'{adopted.ssh}' is not the domain '{adopted.domain}': the machine there has the UUID {machine.uuid}, and "
            f"the domain {adopted.uuid}.",
            hint="'virsh domifaddr' may know the domain's address.",
        )
    if machine.held and machine.held != own_line:
        lab = machine.held.rpartition(":")[2]
        raise UsageError(
            f"The domain '{adopted.domain}' is adopted by the lab '{lab}' already.",
            hint=f"Remove that lab with 'nestctl down {lab}'. If it is gone, remove {_HELD} in that machine, and the "
            f"line that ends in '{_TAG}:{lab}' from the authorized_keys of the account that it came as.",
        )


def look_at_machine(adopt: Adopt, *, connect: str | None) -> Adopted:
    """Look at a domain that could be adopted, and into its machine, without changing anything.

    Raises as `look_at_domain`, `open_user_ssh`, `look_inside` and `check_machine`.
    """
    from nestctl.lab.ssh_access import open_as_user  # labs that adopt nothing boot before it is needed

    with open_connection(choose_uri(connect)) as hypervisor:
        adopted = look_at_domain(adopt, hypervisor.find_domain(adopt.domain))
    deadline = Deadline.after(_LOOK_TIMEOUT_S, f"An answer from '{adopt.ssh}' by SSH")
    with open_as_user(adopt.ssh, deadline) as visit:
        check_machine(look_inside(visit.shell, deadline), adopted)
    return adopted


def adopt_guest(
    level: Level, plan: GuestPlan, adopted: Adopted, *, keys: LabKeys, access: Access, deadline: Deadline
) -> GuestPlan:
    """Log in as the user would, see that the machine is a hypervisor, and let the lab's key in for the same account.

    Returns the plan with the machine's host key. Noted before anything is changed, so that `down` undoes it. Raises
    `PrerequisiteError`, and leaves nothing behind, when sshd there does not take the key.
    """
    with access.open_as_user(level, adopted, deadline) as visit:
        machine = look_inside(visit.shell, deadline)
        check_machine(machine, adopted, _line(keys, plan.lab))
        if not adopted.host_key:
            _check_subnets(plan, machine.routes)
        found = replace(adopted, host_key=visit.host_key)
        keep_adoption(plan, found)
        _let_in(visit.shell, plan.lab, found, keys, deadline)
        plan = replace(plan, adopted=found)
        try:
            with access.open_guest(level, plan.contact, keys, deadline):
                return plan
        except GuestError as error:
            if not adopted.host_key:
                leave(visit.shell, plan.lab, found, keys, deadline)
                drop_adoption(plan.lab, plan.name)
            raise PrerequisiteError(
                f"The lab's key was added to the authorized_keys of '{found.user}' in the domain '{found.domain}', and "
                f"does not open it: {error.message}",
                hint=f"'sudo sshd -T -C user={found.user},host=localhost,addr=127.0.0.1' says there which keys count: "
                "authorizedkeysfile, authenticationmethods, pubkeyacceptedalgorithms (ssh-ed25519).",
            ) from error


def check_adopted(shell: Shell, lab: str, adopted: Adopted, keys: LabKeys, deadline: Deadline) -> None:
    """Raise `UsageError` when a machine is not the one that a lab has adopted, or has begun to."""
    check_machine(look_inside(shell, deadline), adopted, _line(keys, lab))


def _let_in(shell: Shell, lab: str, adopted: Adopted, keys: LabKeys, deadline: Deadline) -> None:
    command = ("sh", "-c", _LET_IN, "sh", _line(keys, lab), adopted.user)
    shell.run(command, deadline=deadline).expect_success()


def leave(shell: Shell, lab: str, adopted: Adopted, keys: LabKeys, deadline: Deadline) -> None:
    """Take the lab's key and the images out of a machine, once nothing of the lab is in it."""
    command = ("sh", "-c", _LEAVE, "sh", _line(keys, lab), adopted.user)
    shell.run(command, deadline=deadline).expect_success()


def place_images(plan: GuestPlan, shell: Shell, deadline: Deadline) -> None:
    """Have the images there that guests inside an adopted one are made from; each appears whole or not at all."""
    for image in plan.images:
        directory = guest_image_directory(image)
        if shell.run(("test", "-e", str(directory)), deadline=deadline).exit_code != 0:
            _place_image(image, directory, shell, deadline)


def _place_image(image: ImageFacts, directory: PurePosixPath, shell: Shell, deadline: Deadline) -> None:
    new = directory.with_name(f"{directory.name}.new")
    make = f'rm -rf "{new}"; mkdir -p "{new}"; chmod 711 "{new.parent}" "{new}"'
    shell.run(("sh", "-c", make), deadline=deadline).expect_success()
    names = [image.disk.name] if image.firmware else [image.disk.name, "vmlinuz", "initrd"]
    for name in names:
        _copy(Path(image.directory / name), new / name, shell, deadline)
    shell.run(("sh", "-c", f'chmod 644 "{new}"/*; mv -T "{new}" "{directory}"'), deadline=deadline).expect_success()


def _copy(source: Path, target: PurePosixPath, shell: Shell, deadline: Deadline) -> None:
    """Copy a file in pieces, each a command of its own, without its holes."""
    with source.open("rb") as file:
        for start in _list_pieces(file.fileno()):
            file.seek(start)
            piece = file.read(_PIECE_MIB << 20)
            words = ("sh", "-c", _PUT, "sh", str(target), str(start >> 20))
            completed = shell.run(words, deadline=deadline, stdin=gzip.compress(piece, compresslevel=1))
            if completed.exit_code != 0:
                said = completed.stderr.decode(errors="replace").strip()
                raise FailedError(f"The image could not be copied into {shell.where}: {said}")
    shell.run(("truncate", "-s", str(source.stat().st_size), str(target)), deadline=deadline).expect_success()


def _list_pieces(descriptor: int) -> Iterator[int]:
    """Yield where the pieces of a file begin that have anything in them (lseek(2), SEEK_DATA)."""
    size, step, start = os.fstat(descriptor).st_size, _PIECE_MIB << 20, 0
    with suppress(OSError):  # ENXIO: nothing but a hole until the end
        while start < size:
            start = os.lseek(descriptor, start, os.SEEK_DATA) // step * step
            yield start
            start += step


def _check_subnets(plan: GuestPlan, routes: tuple[str, ...]) -> None:
    subnets = list(parse_subnets("\n".join(plan.subnets[1:])))
    for route in parse_subnets("\n".join(routes)):
        if clash := [it for it in subnets if it.overlaps(route)]:
            raise PrerequisiteError(
                f"'{plan.domain}' has a route to {route}, and guests inside it would be in {clash[0]}.",
                hint="Take the network away that is there in that machine.",
            )


def _line(keys: LabKeys, lab: str) -> str:
    return f"{keys.client.public} {_TAG}:{lab}"


def render_lab_file(name: str, domain: str, ssh: str) -> str:
    """Render a lab file with a domain that is adopted, and one guest inside it."""
    guest = domain if re.fullmatch(NAME_PATTERN, domain) and domain != "vm" else "l1"
    guests = {guest: {"adopt": {"domain": domain, "ssh": ssh}, "guests": {"vm": {"memory_mib": 512, "disk_gib": 4}}}}
    return (
        f"# Guests inside the domain '{domain}', which is somebody else's: 'nestctl up' makes them, 'nestctl down'\n"
        "# removes them, and the domain itself is never changed, started, stopped or deleted.\n\n"
        + yaml.safe_dump({"name": name, "guests": guests}, sort_keys=False)
    )
