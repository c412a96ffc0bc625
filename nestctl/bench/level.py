"""What bench needs to know of a machine that it measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nestctl.adapters.shell import TalkingShell


class Level(Protocol):
    """A machine to measure, such as `nestctl.lab.session.OpenLevel`.

    `above` names the level whose hypervisor runs it; the top has none. `is_emulated` is also true for a KVM guest of an
    emulated level. `boot_s` are the seconds from its start to the first answer over SSH, where the lab recorded them.
    `domain` is its name in libvirt of the level above.
    """

    @property
    def name(self) -> str: ...
    @property
    def depth(self) -> int: ...
    @property
    def above(self) -> str | None: ...
    @property
    def shell(self) -> TalkingShell: ...
    @property
    def is_emulated(self) -> bool: ...
    @property
    def accelerator(self) -> str: ...
    @property
    def boot_s(self) -> tuple[float, ...]: ...
    @property
    def domain(self) -> str: ...


def control_of(levels: Sequence[Level]) -> Level:
    """Choose the level that a round visits twice: the deepest, whose figures vary most."""
    return max(levels, key=lambda level: level.depth)
