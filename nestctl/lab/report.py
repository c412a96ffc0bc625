"""Show a lab to people and to programs."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from nestctl.lab.plan import GuestPlan, walk_plans
from nestctl.lab.status import GuestStatus, is_up

if TYPE_CHECKING:
    from rich.table import Table
    from rich.tree import Tree

    from nestctl.lab.audit import Trace
    from nestctl.lab.listing import LabSummary
    from nestctl.lab.watch import Row

_COLOURS = {"running": "green", "unreachable": "yellow", "off": "red", "absent": "red"}
_ACCELERATORS = {"kvm": "KVM", "qemu": "emulated (TCG)", "": "-"}


def render_plans(plans: tuple[GuestPlan, ...]) -> dict[str, Any]:
    """Render what `up` brought up as the JSON document of the schema 'nestctl.up/1'."""
    return {
        "schema": "nestctl.up/1",
        "guests": [
            {
                "name": plan.name,
                "level": plan.level,
                "domain": plan.domain,
                "accelerator": "tcg" if plan.place.is_emulated else "kvm",
                "address": plan.uplink.address,
                "ssh_port": plan.uplink.port,
                "cpus": plan.cpus,
                "memory_mib": plan.memory_mib,
                "is_adopted": plan.adopted is not None,
            }
            for plan in walk_plans(plans)
        ],
    }


def render_plans_table(plans: tuple[GuestPlan, ...]) -> Table:
    """Render what `up` brought up, a row for each guest, those inside indented."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("guest", "level", "runs on", "CPUs", "memory", "log in with"):
        table.add_column(title)
    for plan in walk_plans(plans):
        table.add_row(
            "  " * (plan.level - 1) + plan.name,
            f"L{plan.level}",
            "emulated (TCG)" if plan.place.is_emulated else "KVM, verified inside" if plan.answers else "KVM",
            str(plan.cpus),
            f"{plan.memory_mib} MiB",
            f"nestctl ssh {plan.lab}/{plan.name}" if plan.answers else f"VNC (profile {plan.profile})",
        )
    return table


def render_status(lab: str, statuses: tuple[GuestStatus, ...]) -> dict[str, Any]:
    """Render the state of a lab as the JSON document of the schema 'nestctl.status/1'."""
    return {
        "schema": "nestctl.status/1",
        "lab": lab,
        "is_up": is_up(statuses),
        "guests": [asdict(status) for status in statuses],
    }


def render_status_tree(lab: str, statuses: tuple[GuestStatus, ...]) -> Tree:
    """Render a lab's guests as a tree, with their states."""
    from rich.tree import Tree

    tree = Tree(f"[bold]{lab}[/bold]")
    _add(tree, statuses)
    return tree


def render_labs(labs: tuple[LabSummary, ...]) -> dict[str, Any]:
    """Render the labs that are here as the JSON document of the schema 'nestctl.list/1'."""
    return {"schema": "nestctl.list/1", "labs": [asdict(it) for it in labs]}


def render_labs_table(labs: tuple[LabSummary, ...]) -> Table:
    """Render the labs that are here, a row each."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("lab", "guests of this machine", "all its guests", "age", "ends"):
        table.add_column(title)
    for it in labs:
        table.add_row(
            it.name,
            f"{it.running} of {it.outermost} running" + (f", {it.adopted} adopted" if it.adopted else ""),
            str(it.guests) if it.guests is not None else "its file cannot be read",
            render_age(it.age_s) if it.age_s is not None else "-",
            format_time(datetime.fromisoformat(it.expires)) if it.expires else "never",
        )
    return table


def render_traces(traces: tuple[Trace, ...]) -> dict[str, Any]:
    """Render what is there as the JSON document of the schema 'nestctl.audit/1'."""
    return {"schema": "nestctl.audit/1", "is_clean": not traces, "traces": [asdict(it) for it in traces]}


def format_time(at: datetime) -> str:
    """Show a time as it is where the user is."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M %Z")


def render_age(seconds: int) -> str:
    """Render an age in its two largest units: '2 d 3 h', '4 min'."""
    for unit_s, unit, smaller_s, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= unit_s:
            return f"{seconds // unit_s} {unit} {seconds % unit_s // smaller_s} {smaller}"
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"


def render_rows(rows: tuple[Row, ...]) -> Table:
    """Render what `watch` sees now: a row for each guest, in the order of the tree."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    running, guests = sum(row.state == "running" for row in rows), sum(bool(row.name) for row in rows)
    title = f"{running} of {guests} running, {datetime.now().astimezone():%H:%M:%S}. Ctrl-C ends."
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for name in ("guest", "level", "state", "runs on", "address", "memory", "age"):
        table.add_column(name)
    for row in rows:
        if not row.name:
            table.add_row(row.lab, "", f"[yellow]{escape(row.state)}[/]")
            continue
        table.add_row(
            "  " * (row.level - 1) + f"{row.lab}/{row.name}",
            f"L{row.level}",
            f"[{_COLOURS.get(row.state, 'yellow')}]{row.state}[/]",
            _ACCELERATORS.get(row.accelerator, row.accelerator),
            row.address or "-",
            f"{row.memory_mib} MiB",
            render_age(row.age_s) if row.age_s is not None else "-",
        )
    return table


def _place(status: GuestStatus) -> str:
    host = status.address if status.is_adopted else "127.0.0.1"
    return f"{host}:{status.ssh_port}" if status.ssh_port else status.address or "-"


def _add(tree: Tree, statuses: tuple[GuestStatus, ...]) -> None:
    from rich.markup import escape

    for status in statuses:
        words = [
            f"[bold]{status.name}[/bold]",
            f"L{status.level}",
            f"[{_COLOURS[status.state]}]{status.state}[/]",
            _ACCELERATORS.get(status.accelerator, status.accelerator),
            _place(status),
            f"{status.cpus} CPU{'s' if status.cpus > 1 else ''}",
            f"{status.memory_mib} MiB",
            *([f"{render_age(status.age_s)} old"] if status.age_s is not None and not status.is_adopted else []),
            *([f"adopted: domain {escape(status.domain)}"] if status.is_adopted else []),
        ]
        _add(tree.add("  ".join(words)), status.guests)
