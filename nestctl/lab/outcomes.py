"""Show what came of commands in guests, to people and to programs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nestctl.lab.reach import Outcome
from nestctl.lab.report import format_time

if TYPE_CHECKING:
    from rich.table import Table

    from nestctl.lab.expire import Seen
    from nestctl.lab.expiry import Expiry
    from nestctl.lab.run import RunResult

# ECMA-48: a control sequence, or a control character by itself.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x1f\x7f]")

_WOULD = {"nothing": "nothing", "warn": "tell its guests", "stop": "stop it", "delete": "delete it"}
_DID = {"nothing": "nothing", "warn": "told its guests", "stop": "stopped", "delete": "deleted"}


def render_exec(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Render outcomes as the JSON document of the schema 'nestctl.exec/1'."""
    return {"schema": "nestctl.exec/1", "guests": [render_outcome(outcome) for outcome in outcomes]}


def render_outcome(outcome: Outcome) -> dict[str, Any]:
    """Render what came of one guest, as documents of several commands have it."""
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


def render_run(result: RunResult) -> dict[str, Any]:
    """Render the results of `run` as the JSON document of the schema 'nestctl.run/1'."""
    return {
        "schema": "nestctl.run/1",
        "lab": result.lab,
        "command": list(result.task.words),
        "playbook": str(result.task.playbook or ""),
        "is_success": not result.failed,
        "duration_s": round(result.duration_s, 3),
        "kept": list(result.kept),
        "guests": [{**render_outcome(it), "labels": dict(it.node.guest.labels)} for it in result.outcomes],
    }


def render_run_table(result: RunResult) -> Table:
    """Render a row for each guest: its labels, what came of it, and the last line that was said."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    labels = list(dict.fromkeys(name for outcome in result.outcomes for name in outcome.node.guest.labels))
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("guest", "level", *labels, "result", "time", "last line"):
        table.add_column(escape(title), overflow="fold")
    for outcome in result.outcomes:
        node = outcome.node
        table.add_row(
            escape(node.name),
            f"L{node.level}",
            *(escape(node.guest.labels.get(name, "")) for name in labels),
            _verdict(outcome),
            f"{outcome.duration_s:.1f} s",
            escape(_last_line(outcome)),
        )
    return table


def _verdict(outcome: Outcome) -> str:
    if outcome.exit_code is None:
        return "[red]no answer[/red]"
    return f"[red]failed ({outcome.exit_code})[/red]" if outcome.exit_code else "[green]passed[/green]"


def _last_line(outcome: Outcome) -> str:
    said = outcome.trouble or (outcome.stderr if outcome.exit_code else "") or outcome.stdout or outcome.stderr
    lines = [line for line in said.splitlines() if line.strip()]
    # Colours and cursor movements of a program are none of the table's.
    return _CONTROL.sub("", lines[-1]).strip()[:100] if lines else ""


def say_how_to_reach(result: RunResult) -> str:
    """Say what is kept, and how to look at it and remove it."""
    lines = [f"Kept: {', '.join(result.kept)}. 'nestctl down {result.lab}' removes it."]
    kept = (outcome.node for outcome in result.failed if outcome.node.path[0] in result.kept)
    return "\n".join((*lines, *(f"  nestctl ssh {node.lab}/{node.name}" for node in kept)))


def render_expiries(seen: Iterable[Seen], *, is_dry_run: bool) -> dict[str, Any]:
    """Render what `expire` did as the JSON document of the schema 'nestctl.expire/1'."""
    labs = [
        {
            "lab": it.lab,
            "expires": it.expiry.at.isoformat() if it.expiry else None,
            "action": it.expiry.action if it.expiry else "",
            "due": it.due.value,
            "trouble": it.trouble,
        }
        for it in seen
    ]
    return {"schema": "nestctl.expire/1", "is_dry_run": is_dry_run, "labs": labs}


def render_extended(lab: str, expiry: Expiry) -> dict[str, Any]:
    """Render the new end of a lab as the JSON document of the schema 'nestctl.extend/1'."""
    return {"schema": "nestctl.extend/1", "lab": lab, "expires": expiry.at.isoformat(), "action": expiry.action}


def render_expiries_table(seen: Iterable[Seen], *, is_dry_run: bool) -> Table:
    """Render what `expire` did, or would do, a row for each lab."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("lab", "ends", "then", "due now" if is_dry_run else "done"):
        table.add_column(title)
    words = _WOULD if is_dry_run else _DID
    for it in seen:
        done = f"[red]{escape(it.trouble)}[/red]" if it.trouble else words[it.due.value]
        ends, then = (format_time(it.expiry.at), it.expiry.action) if it.expiry else ("never", "-")
        table.add_row(it.lab, ends, then, done)
    return table
