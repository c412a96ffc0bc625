"""The lab that settings are tried on: stopped, booted with a change, opened, put back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Shell
from nestctl.bench.level import Level
from nestctl.errors import UsageError
from nestctl.lab.bring_up import Wishes
from nestctl.lab.converge import up
from nestctl.lab.level import Step
from nestctl.lab.nodes import Node, list_nodes
from nestctl.lab.part import stop_node
from nestctl.lab.preview import preview_changes
from nestctl.lab.session import HOST_NAME, OpenLevel, open_levels
from nestctl.model.lab import Lab


class Bed(Protocol):
    """What trying needs of a lab; it is a value so that trying can be tried out without guests."""

    def stop(self, guest: str) -> None:
        """Have a guest on the way to the measured one switched off, with all that is inside it; those it is in run."""

    def boot(self, lab: Lab) -> None:
        """Boot the measured guest as a changed lab has it, with the guests it is in where they changed or are off."""

    def open(self, lab: Lab) -> AbstractContextManager[Sequence[Level]]:
        """Open this machine and every guest on the way to the measured one, which runs."""

    def open_shell(self, machine: str) -> AbstractContextManager[Shell]:
        """Open a machine on the way to the measured guest, which need not run."""

    def put_back(self) -> bool:
        """Bring all of the lab up as its file says; tell whether it is so then."""


@dataclass(frozen=True, kw_only=True)
class LabBed:
    """A real lab, which is up. Its guests' disks stay: what is changed takes effect when a guest is started."""

    lab: Lab
    node: Node
    connect: str | None
    step: Step

    def stop(self, guest: str) -> None:
        node = next(node for node in list_nodes(self.lab) if node.name == guest)
        stop_node(self.lab, node, connect=self.connect, step=self.step)

    def boot(self, lab: Lab) -> None:
        self._up(lab, self.node.path)

    @contextmanager
    def open(self, lab: Lab) -> Iterator[Sequence[OpenLevel]]:
        with open_levels(lab, connect=self.connect) as levels:
            yield find_way(levels, lab, self.node)

    @contextmanager
    def open_shell(self, machine: str) -> Iterator[Shell]:
        if machine == HOST_NAME:
            yield LocalShell()
            return
        with open_levels(self.lab, connect=self.connect) as levels:
            yield next(level.shell for level in levels if level.name == machine)

    def put_back(self) -> bool:
        self._up(self.lab, ())
        return preview_changes(self.lab, connect=self.connect).is_settled

    def _up(self, lab: Lab, only: tuple[str, ...]) -> None:
        wishes = Wishes(may_recreate=True, only=only)
        up(lab, connect=self.connect, step=self.step, say=lambda _text: None, wishes=wishes)


def find_way(levels: Sequence[OpenLevel], lab: Lab, node: Node) -> tuple[OpenLevel, ...]:
    """Pick the levels on the way to a guest, this machine first. Raises `UsageError` when one of them is off."""
    by_name = {level.name: level for level in levels}
    if off := [name for name in node.path if name not in by_name]:
        raise UsageError(f"The guest '{off[0]}' of the lab '{lab.name}' does not run.", hint="Run 'nestctl up'.")
    return tuple(by_name[name] for name in (HOST_NAME, *node.path))
