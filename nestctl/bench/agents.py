"""The agents of a run: one on each level, started when it is first needed, that stays until the run ends."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Self

from nestctl.adapters.agent import Agent, open_agent
from nestctl.bench.level import Level
from nestctl.deadline import Deadline


class Agents:
    """A context: with it all agents end."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Agent, ExitStack]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self._open]:
            self._end(name)

    def ask(self, level: Level, arguments: Sequence[str], *, deadline: Deadline) -> Any:
        """Have a level's agent run a subcommand. One that fails is ended, and the next question starts another."""
        try:
            if level.name not in self._open:
                stack = ExitStack()
                self._open[level.name] = stack.enter_context(open_agent(level.shell, "measure")), stack
            return self._open[level.name][0].ask(arguments, deadline=deadline)
        except BaseException:
            self._end(level.name)
            raise

    def _end(self, name: str) -> None:
        _, stack = self._open.pop(name, (None, ExitStack()))
        stack.close()
