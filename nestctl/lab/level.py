"""A machine that runs guests: its shell and its libvirt. One piece of code brings guests up on it, at every level."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from nestctl.adapters.libvirt import Domain, Hypervisor, open_guest_hypervisor
from nestctl.adapters.shell import Shell
from nestctl.adapters.ssh import DirectRoute, Identity, JumpRoute, Route, SshShell, open_ssh
from nestctl.adapters.user_ssh import open_user_ssh
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, GuestError, NestctlError
from nestctl.lab.adoption import destination_of
from nestctl.lab.host_facts import Adopted
from nestctl.lab.keys import LabKeys
from nestctl.lab.plan import Contact
from nestctl.lab.render import Mark, parse_mark


class Step(Protocol):
    """Show that something is being done, and what guest it is about."""

    def __call__(
        self, text: str, /, *, lab: str = "", node: str = "", level: int = 0
    ) -> AbstractContextManager[None]: ...


class Access(Protocol):
    """How guests are reached; it is a value so that labs can be tried out without guests."""

    def open_guest(
        self, level: Level, guest: Contact, keys: LabKeys, deadline: Deadline, *, is_booting: bool = False
    ) -> AbstractContextManager[Shell]:
        """Wait for a guest and log in (see `open_guest`)."""

    def open_level_in(self, shell: Shell) -> AbstractContextManager[Level]:
        """Open the level inside a guest (see `open_level_in`)."""

    def open_as_user(self, level: Level, adopted: Adopted, deadline: Deadline) -> AbstractContextManager[Visit]:
        """Log in to a machine that is to be adopted, as the user's own OpenSSH would (see `open_user_ssh`)."""


_SSH_PORT = 22

CONSOLE_LINES = 15

# How long one wait on a console lasts, in seconds, before the domain is asked after.
_LOOK_AGAIN_S = 5

# Event-driven: tail waits by inotify, and ends when grep has found what nestctl-ready.service writes: on a line of its
# own, or after the prompt of a login that was there first.
# A console that may not be read (qemu:///system keeps it from an ordinary user) is not waited for.
_UNREADABLE = 3
_WAIT_FOR_READY = f"""
[ ! -e "$1" ] || [ -r "$1" ] || exit {_UNREADABLE}
tail -n +1 -F "$1" 2>/dev/null | grep -q -m 1 "nestctl: ready"
"""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A shell in a machine that nestctl did not make, and the host key by which it was known: an OpenSSH text."""

    shell: Shell
    host_key: str


@dataclass(frozen=True, kw_only=True)
class Level:
    """A machine that runs guests, this one or a guest at any depth: a shell on it, and its libvirt."""

    shell: Shell
    hypervisor: Hypervisor


def list_own_domains(hypervisor: Hypervisor, lab: str) -> tuple[tuple[Domain, Mark], ...]:
    """List the domains of a lab on one hypervisor, each with the mark that makes it the lab's."""
    marked = ((domain, parse_mark(domain.xml)) for domain in hypervisor.list_domains())
    return tuple((domain, mark) for domain, mark in marked if mark and mark.lab == lab)


def boot_timeout_s(level: int, *, is_emulated: bool) -> float:
    """Say how long a guest may take to boot, in seconds: more under emulation, and twice as long at each level.

    Measured under TCG on two idle cores: 9 s for a guest of the host, 27 s for one inside it.
    """
    return 60.0 * (5 if is_emulated else 1) * 2.0 ** (level - 1)


@contextmanager
def open_guest(
    level: Level, guest: Contact, keys: LabKeys, deadline: Deadline, *, is_booting: bool = False
) -> Iterator[SshShell]:
    """Wait for a guest's SSH and log in; `is_booting` waits for the guest's own word first.

    When it does not come, the error has the last lines of its console.
    """

    def check_alive() -> None:
        if trouble := level.hypervisor.read_trouble(guest.domain):
            raise GuestError(f"The guest '{guest.name}' was to boot, and {trouble}.")

    host_key = guest.host_key or keys.hosts[guest.name].public
    identity = Identity(user="root", client_key=keys.client.private, host_key=host_key)
    with ExitStack() as stack:
        try:
            is_ready = is_booting and _wait_for_ready(level, guest, deadline)
            shell = stack.enter_context(
                open_ssh(
                    f"{guest.name}.{guest.lab}",
                    route_to(level, guest),
                    identity,
                    deadline=deadline,
                    is_ready=is_ready,
                    check_alive=check_alive,
                )
            )
        except (DeadlineError, GuestError) as error:
            if guest.host_key:
                raise  # the console of a domain that was adopted is not ours
            said = f"{error.message}\nThe last lines of its console:\n{read_console(level, guest)}"
            raise type(error)(said, hint=error.hint) from error
        yield shell


def _wait_for_ready(level: Level, guest: Contact, deadline: Deadline) -> bool:
    """Wait until a guest says on its console that it is ready; False when that cannot be read, or it has stopped.

    Knocking at the SSH port of a guest that boots costs it a process for every knock, seconds in all where it is slow.
    """
    for _ in deadline.poll(interval_s=0):
        command = ("timeout", str(_LOOK_AGAIN_S), "sh", "-c", _WAIT_FOR_READY, "sh", str(guest.console))
        try:
            completed = level.shell.run(command, deadline=deadline)
        except DeadlineError:
            deadline.check()  # says what was waited for, which is not that command
            raise
        if completed.exit_code == 0:
            return True
        if completed.exit_code == _UNREADABLE or level.hypervisor.read_trouble(guest.domain):
            return False
    raise AssertionError("a deadline ends by raising")


@contextmanager
def open_level_in(shell: SshShell) -> Iterator[Level]:
    """Open the level inside a guest: its shell is there, its libvirt comes through the same connection."""
    with open_guest_hypervisor(shell) as hypervisor:
        yield Level(shell=shell, hypervisor=hypervisor)


class SshAccess:
    """Guests that are reached by SSH: all of them."""

    def open_guest(
        self, level: Level, guest: Contact, keys: LabKeys, deadline: Deadline, *, is_booting: bool = False
    ) -> AbstractContextManager[Shell]:
        """Log in as root with the lab's key. Raises as `open_guest`."""
        return open_guest(level, guest, keys, deadline, is_booting=is_booting)

    def open_level_in(self, shell: Shell) -> AbstractContextManager[Level]:
        """Open the level inside a guest. Raises `GuestError` for a shell that is not SSH's."""
        if not isinstance(shell, SshShell):
            raise GuestError(f"{shell.where} is not reached by SSH, and its libvirt only through that.")
        return open_level_in(shell)

    def open_as_user(self, level: Level, adopted: Adopted, deadline: Deadline) -> AbstractContextManager[Visit]:
        """Log in as the user's own OpenSSH would. Raises as `open_user_ssh`."""
        return open_as_user(adopted.ssh, deadline)


@contextmanager
def open_as_user(ssh: str, deadline: Deadline) -> Iterator[Visit]:
    """Log in where `ssh` ([USER@]HOST[:PORT]) leads the user's own OpenSSH. Raises as `open_user_ssh`."""
    with open_user_ssh(ssh, destination_of(ssh), deadline=deadline) as shell:
        key = shell.transport.get_remote_server_key()
        yield Visit(shell=shell, host_key=f"{key.get_name()} {key.get_base64()}")


def route_to(level: Level, guest: Contact) -> Route:
    """Choose the way to a guest's SSH port: its forwarded port, or its address, from the machine that runs it."""
    if guest.port:
        return DirectRoute(host=guest.host, port=guest.port)
    if isinstance(level.shell, SshShell):
        return JumpRoute(through=level.shell, host=guest.address)
    return DirectRoute(host=guest.address, port=_SSH_PORT)


def read_console(level: Level, guest: Contact) -> str:
    """Read the last lines a guest wrote to its serial console, indented; says so when there are none."""
    command = ("tail", "-n", str(CONSOLE_LINES), str(guest.console))
    try:
        completed = level.shell.run(command, deadline=Deadline.after(20, "Reading the console"))
    except NestctlError as error:
        return f"  (the console cannot be read: {error})"
    if completed.exit_code != 0:
        return f"  ({completed.stderr.decode(errors='replace').strip()})"
    return "\n".join(f"  {line.rstrip()}" for line in completed.text.splitlines()) or "  (it wrote nothing)"
