"""Reach guests by SSH: wait for one that boots, log in, and open the libvirt inside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from nestctl.adapters.libvirt import open_guest_hypervisor
from nestctl.adapters.shell import Shell
from nestctl.adapters.ssh import DirectRoute, Identity, JumpRoute, Route, SshShell, open_ssh
from nestctl.adapters.user_ssh import open_user_ssh
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, GuestError, NestctlError
from nestctl.lab.adoption import destination_of
from nestctl.lab.keys import LabKeys
from nestctl.lab.level import Level, Visit
from nestctl.lab.plan import Contact

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


@contextmanager
def open_guest(
    level: Level, guest: Contact, keys: LabKeys, deadline: Deadline, *, is_booting: bool = False
) -> Iterator[SshShell]:
    """Wait for a guest's SSH and log in; `is_booting` waits for the guest's own word first. Commands are root's.

    When it does not come, the error has the last lines of its console. Raises `PrerequisiteError` when the account of
    a machine that was adopted may not become root.
    """

    def check_alive() -> None:
        if trouble := level.hypervisor.read_trouble(guest.domain):
            raise GuestError(f"The guest '{guest.name}' was to boot, and {trouble}.")

    host_key = guest.host_key or keys.hosts[guest.name].public
    identity = Identity(user=guest.user, client_key=keys.client.private, host_key=host_key)
    with ExitStack() as stack:
        try:
            # Who runs already, as all do that were adopted, is not knocked at again and again.
            is_ready = bool(guest.host_key) or not is_booting or _wait_for_ready(level, guest, deadline)
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
        yield shell.as_root(deadline)


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
def open_level_in(shell: Shell) -> Iterator[Level]:
    """Open the level inside a guest: its shell is there, its libvirt comes through the same connection.

    Raises `GuestError` for a shell that is not SSH's.
    """
    if not isinstance(shell, SshShell):
        raise GuestError(f"{shell.where} is not reached by SSH, and its libvirt only through that.")
    with open_guest_hypervisor(shell) as hypervisor:
        yield Level(shell=shell, hypervisor=hypervisor)


@contextmanager
def open_as_user(ssh: str, deadline: Deadline) -> Iterator[Visit]:
    """Log in where `ssh` ([USER@]HOST[:PORT]) leads the user's own OpenSSH; commands are root's.

    Raises as `open_user_ssh`, `SshShell.as_root` and `SshShell.expect_forwarding`.
    """
    with open_user_ssh(ssh, destination_of(ssh), deadline=deadline) as shell:
        shell.expect_forwarding(deadline)
        key = shell.transport.get_remote_server_key()
        yield Visit(shell=shell.as_root(deadline), host_key=f"{key.get_name()} {key.get_base64()}")


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
