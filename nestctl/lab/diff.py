"""Show to people and to programs what has to be done so that a lab is as its file says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nestctl.lab.admission import render_admission
from nestctl.lab.compare import Action, Change, describe, walk_changes

if TYPE_CHECKING:
    from rich.tree import Tree

    from nestctl.lab.networks import NetworkChange
    from nestctl.lab.preview import Preview

_SIGNS = {
    Action.CREATE: ("+", "green"),
    Action.ADOPT: ("+", "green"),
    Action.START: (">", "green"),
    Action.CHANGE: ("~", "yellow"),
    Action.RESTART: ("!", "yellow"),
    Action.RECREATE: ("-/+", "red"),
    Action.REMOVE: ("-", "red"),
    Action.UNKNOWN: ("?", "magenta"),
    Action.KEEP: (" ", "dim"),
}
_WORDS = {Action.UNKNOWN: "not looked at", Action.KEEP: "stays", Action.CHANGE: "change in place"}


def render_changes(lab: str, preview: Preview) -> dict[str, Any]:
    """Render a plan as the JSON document of the schema 'nestctl.plan/1'."""
    return {
        "schema": "nestctl.plan/1",
        "lab": lab,
        "is_empty": preview.is_settled,
        "networks": [{"name": it.name, "action": it.action.value, "reason": it.reason} for it in preview.networks],
        "risks": [asdict(it) for it in preview.risks],
        "room": render_admission(preview.admission) if preview.admission else None,
        "guests": [_render(it) for it in preview.guests],
    }


def _render(change: Change) -> dict[str, Any]:
    return {
        "name": change.name,
        "level": change.level,
        "action": change.action.value,
        "reason": change.reason,
        "differences": [asdict(it) for it in change.differences],
        "guests": [_render(it) for it in change.guests],
    }


def render_changes_tree(lab: str, preview: Preview) -> Tree:
    """Render a plan as a tree, a line for every network and guest, and the sums on top."""
    from rich.markup import escape
    from rich.tree import Tree

    tree = Tree(f"[bold]{lab}[/bold]: {escape(summarize((*preview.networks, *walk_changes(preview.guests))))}")
    for it in preview.networks:
        sign, colour = _SIGNS[it.action]
        words = _WORDS.get(it.action, it.action.value) + (f": {it.reason}" if it.reason else "")
        tree.add(f"{sign} [bold]{it.name}[/bold]  network  [{colour}]{escape(words)}[/]")
    _add(tree, preview.guests)
    return tree


def summarize(changes: Iterable[Change | NetworkChange]) -> str:
    """Say in one line how much there is to do."""
    counts: Counter[Action] = Counter(it.action for it in changes if it.action is not Action.KEEP)
    said = [f"{counts[action]} to {action}" for action in Action if action in counts and action is not Action.UNKNOWN]
    if counts[Action.UNKNOWN]:
        said.append(f"{counts[Action.UNKNOWN]} not looked at")
    return ", ".join(said) or "nothing to do"


def _add(tree: Tree, changes: Iterable[Change]) -> None:
    from rich.markup import escape

    for change in changes:
        sign, colour = _SIGNS[change.action]
        about = describe(change)
        if change.action is Action.CREATE and change.plan:
            cpus = f"{change.plan.cpus} CPU{'s' if change.plan.cpus > 1 else ''}"
            size = f"{cpus}, {change.plan.memory_mib} MiB, disk {change.plan.disk_gib} GiB"
            about = f"{about}; {size}" if about else size
        words = _WORDS.get(change.action, change.action.value) + (f": {about}" if about else "")
        line = f"{sign} [bold]{change.name}[/bold]  L{change.level}  [{colour}]{escape(words)}[/]"
        _add(tree.add(line), change.guests)
