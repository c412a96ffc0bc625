"""What a target is, how it is written, and how to get a shell on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Shell
from nestctl.adapters.ssh_options import Destination
from nestctl.adapters.user_ssh import open_user_ssh
from nestctl.deadline import Deadline
from nestctl.errors import UnreachableError, UsageError
from nestctl.lab.nodes import find_node

THIS_MACHINE = "localhost"

_HINT = "Write 'ssh://USER@HOST:PORT' for a machine, 'LAB/GUEST' for a guest of a lab, 'localhost' for this machine."


@dataclass(frozen=True, kw_only=True)
class Target:
    """A machine by the name the user gave it; without a destination it is this one.

    `problem` says why it cannot be reached at all: that is nothing to the others of its inventory.
    """

    name: str
    destination: Destination | None = None
    problem: str = ""


def parse_target(text: str) -> Target:
    """Read 'localhost', 'ssh://[USER@]HOST[:PORT]' or 'LAB/GUEST'.

    Raises `UsageError` when it is none of them, and when there is no such guest or its lab is not up.
    """
    if text == THIS_MACHINE:
        return Target(name=text)
    if text.startswith("ssh://"):
        return Target(name=text, destination=_parse_uri(text))
    if "/" not in text or "://" in text or "@" in text:
        raise UsageError(f"'{text}' is no target.", hint=_HINT)
    node = find_node(text)
    return Target(name=text, destination=Destination(host=node.name, file=node.directory / "ssh_config"))


def _parse_uri(text: str) -> Destination:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError(f"The target '{text}' is wrong: {error}.", hint=_HINT) from error
    if parts.password is not None:
        raise UsageError("A target takes no password.", hint="Let SSH's agent or a key log in.")
    if not host or port == 0 or parts.path.strip("/") or parts.query or parts.fragment:
        raise UsageError(f"The target '{text}' is not of the form ssh://[USER@]HOST[:PORT].", hint=_HINT)
    # They become words of commands (ssh, ansible-playbook): none may look like an option.
    user = parts.username or ""
    if host.startswith("-") or user.startswith("-") or any(character.isspace() for character in host + user):
        raise UsageError(f"The target '{text}' names no host or user that there can be.", hint=_HINT)
    return Destination(host=host, user=user, port=port or 0)


@contextmanager
def open_target(target: Target, deadline: Deadline) -> Iterator[Shell]:
    """Open a shell on a target. Raises as `open_user_ssh` does."""
    if target.problem:
        raise UnreachableError(target.problem)
    if target.destination is None:
        yield LocalShell()
        return
    with open_user_ssh(target.name, target.destination, deadline=deadline) as shell:
        yield shell
