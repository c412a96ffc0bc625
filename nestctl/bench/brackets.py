"""Look from outside at a workload while its samples are taken: L0's clock, and the guest's exits on the level above."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nestctl.bench.agents import Agents
from nestctl.bench.level import Level
from nestctl.deadline import Deadline
from nestctl.errors import NestctlError
from nestctl.model.facts import Accelerator
from nestctl.model.samples import Bracket, Measurement, parse_counted_exits, parse_stolen

_PAUSE = "nestctl.pause/1"
_READING_S = 120.0


def clock_ns() -> int:
    """L0's CLOCK_MONOTONIC_RAW in nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


@dataclass(kw_only=True)
class Brackets:
    """The counters of a run's guests, and by their level why there are none."""

    levels: Mapping[str, Level]
    agents: Agents
    reasons: dict[str, str] = field(default_factory=dict)

    def read_exits(self, level: Level) -> int | None:
        """Ask the level above how often this one has left; None, with its reason, where that is not counted."""
        above = self.levels.get(level.above or "")
        if above is None or level.name in self.reasons:
            return None
        if level.accelerator != Accelerator.KVM:
            self.reasons[level.name] = "it is emulated (TCG), so nothing leaves to a hypervisor"
            return None
        deadline = Deadline.after(_READING_S, f"Reading the exits of '{level.name}'")
        try:
            document = self.agents.ask(above, ("vm_exits", f"--guest={level.domain}"), deadline=deadline)
            counted = parse_counted_exits(document, where=above.shell.where)
        except NestctlError as error:
            self.reasons[level.name] = error.message
            return None
        if counted.reason:
            self.reasons[level.name] = f"{above.name}: {counted.reason}"
        return counted.exits

    def read_stolen(self, level: Level, deadline: Deadline) -> int | None:
        """Ask a level what the hypervisor above has taken from it since its start, in nanoseconds."""
        try:
            document = self.agents.ask(level, ("disturbance",), deadline=deadline)
            return parse_stolen(document, where=level.shell.where)
        except NestctlError:
            deadline.check()
            return None

    def measure(self, level: Level, arguments: Sequence[str], deadline: Deadline) -> tuple[Any, Mapping[str, Bracket]]:
        """Have an agent measure, and look whenever it pauses. Returns its answer, and the brackets by workload."""
        found: dict[str, Bracket] = {}
        begun: tuple[int, int | None] = (0, None)
        document = self.agents.ask(level, arguments, deadline=deadline)
        while isinstance(document, dict) and document.get("schema") == _PAUSE:
            if document["at"] == "begin":
                exits = self.read_exits(level)
                begun = clock_ns(), exits
            else:
                end_ns = clock_ns()
                exits = self.read_exits(level)
                found[document["workload"]] = make_bracket(begun[0], end_ns, begun[1], exits)
            document = self.agents.ask(level, ("go",), deadline=deadline)
        return document, found

    def list_reasons(self) -> tuple[str, ...]:
        """Say once for each level why its exits are not counted."""
        return tuple(f"Exits of {name} are not counted: {reason}." for name, reason in self.reasons.items())


def make_bracket(begin_ns: int, end_ns: int, before: int | None, after: int | None) -> Bracket:
    """A counter that went back is that of another boot, and counts nothing."""
    exits = None if before is None or after is None or after < before else after - before
    return Bracket(host_begin_ns=begin_ns, host_end_ns=end_ns, exits=exits)


def add_brackets(measured: Measurement, brackets: Mapping[str, Bracket]) -> Measurement:
    """Put the brackets to their outcomes."""
    outcomes = tuple(
        outcome.model_copy(update={"bracket": brackets.get(outcome.workload)}) for outcome in measured.outcomes
    )
    return measured.model_copy(update={"outcomes": outcomes})
