"""What a student gets: a directory with a key that opens that student's machines, how to reach them, and a card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nestctl import __version__
from nestctl.adapters.files import check_directory, write_atomically
from nestctl.errors import FailedError, UsageError
from nestctl.lab.host import open_connection, plan_on, read_host
from nestctl.lab.keys import LabKeys, read_keys
from nestctl.lab.plan import GuestPlan, walk_plans
from nestctl.lab.render import render_page
from nestctl.lab.ssh_config import Access, render_known_hosts, render_ssh_config
from nestctl.lab.store import expect_up
from nestctl.model.lab import Lab

JUMP_NAME = "nestctl-host"

# 'ACCOUNT@HOST' or 'ACCOUNT@HOST:PORT', without what ssh_config(5) would take for something else.
_JUMP = re.compile(r"([A-Za-z0-9_.-]+)@([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::([0-9]{1,5}))?")

_HOST_KEYS = Path("/etc/ssh")


@dataclass(frozen=True, kw_only=True)
class Jump:
    """How students reach this machine by SSH; `host_keys` are this machine's own, as lines of known_hosts."""

    account: str
    host: str
    port: int
    host_keys: str

    def __str__(self) -> str:
        return f"{self.account}@{self.host}" + (f":{self.port}" if self.port != 22 else "")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A guest as a card shows it; `outer` names the guest it is in."""

    name: str
    outer: str
    level: int
    address: str
    cpus: int
    memory_mib: int
    disk_gib: int
    is_hypervisor: bool


@dataclass(frozen=True, kw_only=True)
class Student:
    """A guest of this machine and all inside it, as they are handed out."""

    name: str
    labels: Mapping[str, str]
    machines: tuple[Machine, ...]


def parse_jump(text: str, host_keys: Path = _HOST_KEYS) -> Jump:
    """Parse 'ACCOUNT@HOST[:PORT]'. Raises `UsageError`."""
    found = _JUMP.fullmatch(text)
    port = int(found[3] or 22) if found else 0
    if not found or not 0 < port < 65536:
        raise UsageError(f"'{text}' is no way to this machine: write it as ACCOUNT@HOST or ACCOUNT@HOST:PORT.")
    keys = (path.read_text().split()[:2] for path in sorted(host_keys.glob("ssh_host_*_key.pub")))
    lines = "".join(f"{JUMP_NAME} {' '.join(words)}\n" for words in keys)
    return Jump(account=found[1], host=found[2].strip("[]"), port=port, host_keys=lines)


def hand_out(lab: Lab, directory: Path, *, jump: Jump | None, connect: str | None) -> tuple[Student, ...]:
    """Write the directories of a lab that is up (see `write_bundles`). Raises `UsageError` when it is not."""
    check_directory(directory)
    keys = read_keys(expect_up(lab) / "keys.json")
    host = read_host(connect)
    with open_connection(host.uri) as hypervisor:
        plans = plan_on(host, lab, hypervisor.list_domains(), hypervisor.list_networks())
    return write_bundles(lab, plans, keys, directory, jump)


def write_bundles(
    lab: Lab, plans: tuple[GuestPlan, ...], keys: LabKeys, directory: Path, jump: Jump | None
) -> tuple[Student, ...]:
    """Write a directory for every guest of this machine, and index.html for whoever runs the lab.

    Directories that are made have mode 0700, files 0600. Raises `FailedError` when there is no key for a student.
    """
    if adopted := [plan.name for plan in plans if plan.adopted]:
        raise UsageError(f"'{adopted[0]}' is a domain that was adopted: no key to it is handed out.")
    if missing := [plan.name for plan in plans if plan.name not in keys.students]:
        raise FailedError(
            f"The lab '{lab.name}' has no key for {', '.join(missing)}: an older nestctl brought it up.",
            hint=f"Remove it with 'nestctl down {lab.name}', and bring it up again.",
        )
    _make_private(directory)
    students = tuple(student_of(lab, plan) for plan in plans)
    for plan, student in zip(plans, students, strict=True):
        _write_bundle(directory / plan.name, plan, student, keys, jump)
    _write(directory / "index.html", render_index(lab.name, students, jump))
    if jump:
        _write(directory / "authorized_keys", "".join(render_authorized_key(plan, keys) for plan in plans))
        _write(directory / "sshd.conf", render_server_settings(jump))
    return students


def render_index(lab: str, students: tuple[Student, ...], jump: Jump | None) -> str:
    """Render the teacher's page: all students, with links to the cards beside it. It holds no secret."""
    return render_page("class.html.j2", lab=lab, students=students, jump=jump, version=__version__)


def render_card(lab: str, student: Student, jump: Jump | None) -> str:
    """Render the page that a student gets on paper. It holds no secret."""
    return render_page("card.html.j2", lab=lab, student=student, jump=jump, version=__version__)


def render_authorized_key(plan: GuestPlan, keys: LabKeys) -> str:
    """Render a line of authorized_keys (sshd(8)) with which a student's key does nothing but reach that machine.

    `permitopen` is for UNIX sockets, too. To listen at nothing cannot be said: a privileged port, which the account may
    not have, stands for it.
    """
    to = f"127.0.0.1:{plan.uplink.port}" if plan.uplink.port else f"{plan.uplink.address}:22"
    options = f'restrict,port-forwarding,permitopen="{to}",permitlisten="127.0.0.1:1",command="/bin/false"'
    return f"{options} {keys.students[plan.name].public} {plan.lab}/{plan.name}\n"


def render_server_settings(jump: Jump) -> str:
    """Render for sshd_config(5) what those lines cannot say: that no UNIX socket may be made there."""
    return (
        "# The account through which students of nestctl's labs come.\n"
        f"Match User {jump.account}\n    AllowTcpForwarding local\n    AllowStreamLocalForwarding no\nMatch all\n"
    )


def render_jump(jump: Jump) -> str:
    """Render the Host of this machine as a student's OpenSSH sees it."""
    known = (
        f"    HostKeyAlias {JUMP_NAME}\n    UserKnownHostsFile known_hosts\n    StrictHostKeyChecking yes\n"
        if jump.host_keys
        else ""
    )
    return (
        f"Host {JUMP_NAME}\n    HostName {jump.host}\n    Port {jump.port}\n    User {jump.account}\n{known}"
        "    IdentityFile key\n    IdentitiesOnly yes\n\n"
    )


def _write_bundle(directory: Path, plan: GuestPlan, student: Student, keys: LabKeys, jump: Jump | None) -> None:
    _make_private(directory)
    access = Access(known_hosts="known_hosts", key="key", jump=JUMP_NAME if jump else "")
    configuration = (render_jump(jump) if jump else "") + render_ssh_config((plan,), access)
    known = render_known_hosts(keys, (it.name for it in walk_plans((plan,)))) + (jump.host_keys if jump else "")
    _write(directory / "key", keys.students[plan.name].private)
    _write(directory / "ssh_config", configuration)
    _write(directory / "known_hosts", known)
    _write(directory / "card.html", render_card(plan.lab, student, jump))


def student_of(lab: Lab, plan: GuestPlan) -> Student:
    """Gather what is handed out with a guest of this machine: itself, then all inside it, and its labels."""
    return Student(name=plan.name, labels=lab.guests[plan.name].labels, machines=tuple(_machines((plan,), "")))


def _machines(plans: Iterable[GuestPlan], outer: str) -> Iterable[Machine]:
    for plan in plans:
        yield Machine(
            name=plan.name,
            outer=outer,
            level=plan.level,
            address=plan.uplink.address,
            cpus=plan.cpus,
            memory_mib=plan.memory_mib,
            disk_gib=plan.disk_gib,
            is_hypervisor=plan.is_hypervisor,
        )
        yield from _machines(plan.guests, plan.name)


def _make_private(directory: Path) -> None:
    # One that is there keeps its mode: it may be any directory of the user's.
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _write(path: Path, text: str) -> None:
    write_atomically(path, text.encode(), mode=0o600)
