"""Which guests a command is about: one by its name, or many by a pattern."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from nestctl.errors import UsageError
from nestctl.lab.place import GUEST_DIRECTORY
from nestctl.lab.store import expect_up, find_lab_of, lab_directory
from nestctl.model.lab import Guest, Lab


@dataclass(frozen=True, kw_only=True)
class Node:
    """A guest of a lab that has been brought up; `path` names the guests it is in, outermost first, and itself."""

    lab: str
    name: str
    path: tuple[str, ...]
    guest: Guest
    directory: Path

    @property
    def level(self) -> int:
        """Its level, from 1 for a guest of this machine."""
        return len(self.path)

    @property
    def outer(self) -> str:
        """The guest it is in; empty for a guest of this machine."""
        return self.path[-2] if self.level > 1 else ""

    @property
    def console(self) -> PurePosixPath:
        """Its console's log, on the machine that runs it."""
        directory = GUEST_DIRECTORY / self.lab if self.outer else PurePosixPath(self.directory)
        return directory / f"{self.name}.console.log"


def find_nodes(reference: str) -> tuple[Node, ...]:
    """Find guests by 'GUEST', 'LAB/GUEST' or a shell's pattern ('web*', 'LAB/*'), each before those inside it.

    Raises `UsageError` when there is none, or the lab has not been brought up.
    """
    lab, pattern = find_lab_of(reference)
    nodes = select_nodes(list_nodes(lab), lab.name, pattern)
    expect_up(lab)
    return nodes


def find_node(reference: str) -> Node:
    """Find one guest by 'GUEST' or 'LAB/GUEST'. Raises `UsageError` as `find_nodes`, and when it is a pattern."""
    if is_pattern(reference):
        raise UsageError(f"'{reference}' is a pattern; name one guest here.")
    return find_nodes(reference)[0]


def select_nodes(nodes: tuple[Node, ...], lab: str, pattern: str) -> tuple[Node, ...]:
    """Select guests by a name or pattern. Raises `UsageError` when none has such a name."""
    found = tuple(node for node in nodes if fnmatchcase(node.name, pattern))
    if not found:
        kind = "guest like" if is_pattern(pattern) else "guest"
        raise UsageError(f"The lab '{lab}' has no {kind} '{pattern}'; it has {', '.join(it.name for it in nodes)}.")
    return found


def is_pattern(reference: str) -> bool:
    """Tell whether a reference has characters of fnmatch, and may mean several guests."""
    return any(character in reference for character in "*?[")


def list_nodes(lab: Lab) -> tuple[Node, ...]:
    """List the guests of a lab, each before those inside it."""
    return tuple(_walk(lab.name, lab_directory(lab.name), lab.guests, ()))


def list_outermost_made(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """List the guests that nestctl made and that are in no other such guest: with them all the others are off."""
    nodes = tuple(nodes)
    adopted = {node.name for node in nodes if node.guest.adopt}
    return tuple(node for node in nodes if node.name not in adopted and adopted.issuperset(node.path[:-1]))


def _walk(lab: str, directory: Path, guests: Mapping[str, Guest], outer: tuple[str, ...]) -> Iterator[Node]:
    for name, guest in guests.items():
        path = (*outer, name)
        yield Node(lab=lab, name=name, path=path, guest=guest, directory=directory)
        yield from _walk(lab, directory, guest.guests, path)
