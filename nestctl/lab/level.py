"""A machine that runs guests: its shell and its libvirt. One piece of code brings guests up on it, at every level."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from nestctl.adapters.libvirt import Domain, Hypervisor
from nestctl.adapters.shell import Shell
from nestctl.lab.render import Mark, parse_mark


class Step(Protocol):
    """Show that something is being done, and what guest it is about."""

    def __call__(
        self, text: str, /, *, lab: str = "", node: str = "", level: int = 0
    ) -> AbstractContextManager[None]: ...


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
