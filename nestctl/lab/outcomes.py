"""Show what came of commands in guests, to people and to programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nestctl.lab.reach import Outcome


def render_exec(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Render outcomes as the JSON document of the schema 'nestctl.exec/1'."""
    return {"schema": "nestctl.exec/1", "guests": [render_outcome(outcome) for outcome in outcomes]}


def render_outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "lab": outcome.node.lab,
        "name": outcome.node.name,
        "level": outcome.node.level,
        "exit_code": outcome.exit_code,
        "trouble": outcome.trouble,
        "duration_s": round(outcome.duration_s, 3),
        "stdout": outcome.stdout,
        "stderr": outcome.stderr,
    }


def render_lines(name: str, text: str) -> str:
    """Put a guest's name before every line."""
    return "".join(f"{name}: {line}\n" for line in text.splitlines())
