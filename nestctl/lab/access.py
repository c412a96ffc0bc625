"""How guests are reached: a value, so that labs can be tried out without guests."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from nestctl.adapters.shell import Shell
from nestctl.deadline import Deadline
from nestctl.lab.host_facts import Adopted
from nestctl.lab.keys import LabKeys
from nestctl.lab.level import Level, Visit
from nestctl.lab.plan import Contact


class Access(Protocol):
    """How guests are reached."""

    def open_guest(
        self, level: Level, guest: Contact, keys: LabKeys, deadline: Deadline, *, is_booting: bool = False
    ) -> AbstractContextManager[Shell]:
        """Wait for a guest and log in (see `open_guest`)."""

    def open_level_in(self, shell: Shell) -> AbstractContextManager[Level]:
        """Open the level inside a guest (see `open_level_in`)."""

    def open_as_user(self, level: Level, adopted: Adopted, deadline: Deadline) -> AbstractContextManager[Visit]:
        """Log in to a machine that is to be adopted, as the user's own OpenSSH would (see `open_user_ssh`)."""


class SshAccess:
    """Guests that are reached by SSH: all of them. What speaks it is loaded when the first is: that takes a while."""

    def open_guest(
        self, level: Level, guest: Contact, keys: LabKeys, deadline: Deadline, *, is_booting: bool = False
    ) -> AbstractContextManager[Shell]:
        """Log in with the lab's key. Raises as `ssh_access.open_guest`."""
        from nestctl.lab.ssh_access import open_guest

        return open_guest(level, guest, keys, deadline, is_booting=is_booting)

    def open_level_in(self, shell: Shell) -> AbstractContextManager[Level]:
        """Open the level inside a guest. Raises `GuestError` for a shell that is not SSH's."""
        from nestctl.lab.ssh_access import open_level_in

        return open_level_in(shell)

    def open_as_user(self, level: Level, adopted: Adopted, deadline: Deadline) -> AbstractContextManager[Visit]:
        """Log in as the user's own OpenSSH would. Raises as `open_user_ssh`."""
        from nestctl.lab.ssh_access import open_as_user

        return open_as_user(adopted.ssh, deadline)
