"""A comparison of two runs, and the list of runs there are: as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nestctl.bench.compare import Change, Comparison, Verdict
from nestctl.bench.files import Found
from nestctl.bench.report import EMULATED, EMULATED_NOTE, format_ratio, format_spread

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

COMPARE_SCHEMA = "nestctl.bench-compare/1"
LIST_SCHEMA = "nestctl.bench-list/1"


def render_comparison(comparison: Comparison) -> dict[str, Any]:
    """Make the JSON document of a comparison."""
    return {
        "schema": COMPARE_SCHEMA,
        "before": {"title": comparison.before.title, "created": comparison.before.created},
        "after": {"title": comparison.after.title, "created": comparison.after.created},
        "threshold": comparison.threshold,
        "ignores_boots": comparison.ignores_boots,
        "has_regression": bool(comparison.regressions),
        "differences": [asdict(difference) for difference in comparison.differences],
        "changes": [_render_change(change, comparison) for change in comparison.changes],
        "missing": list(comparison.missing),
    }


def _render_change(change: Change, comparison: Comparison) -> dict[str, Any]:
    interval = change.ratio.interval
    return {
        "level": change.level,
        "emulated": _is_emulated(change, comparison),
        "workload": change.workload,
        "unit": change.unit,
        "before": asdict(change.before),
        "after": asdict(change.after),
        "ratio": change.ratio.value,
        "ratio_low": interval.low if interval else None,
        "ratio_high": interval.high if interval else None,
        "verdict": change.verdict.value,
        "is_regression": change.is_regression,
    }


def render_comparison_table(comparison: Comparison) -> Group:
    """Make a table of every figure that both runs have: above it what is compared, below it how to read it."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for head in ("Workload", "Level", "Before", "After", "After / before", ""):
        table.add_column(Text(head))
    for change in comparison.changes:
        table.add_row(*(Text(cell) for cell in _cells(change, comparison)))
    return Group(*map(Text, _heads(comparison)), table, *map(Text, _notes(comparison)))


def _cells(change: Change, comparison: Comparison) -> tuple[str, ...]:
    level = f"{change.level} {EMULATED}" if _is_emulated(change, comparison) else change.level
    before, after = format_spread(change.before, change.unit), format_spread(change.after, change.unit)
    verdict = "REGRESSION" if change.is_regression else change.verdict.value
    return change.title, level, before, after, format_ratio(change.ratio, names_level=False), verdict


def _is_emulated(change: Change, comparison: Comparison) -> bool:
    levels = (*comparison.before.levels, *comparison.after.levels)
    return any(level.is_emulated for level in levels if level.name == change.level)


def _heads(comparison: Comparison) -> Iterator[str]:
    yield f"Before: {comparison.before.title} {comparison.before.created}"
    yield f"After: {comparison.after.title} {comparison.after.created}"
    if any(_is_emulated(change, comparison) for change in comparison.changes):
        yield f"{EMULATED}: {EMULATED_NOTE}."
    for difference in comparison.differences:
        yield f"Not the same: {difference}."


def _notes(comparison: Comparison) -> Iterator[str]:
    yield "2× is twice as dear after as before, whatever the unit; in brackets the 95 % interval."
    judged = sum(change.verdict is not Verdict.UNKNOWN for change in comparison.changes)
    yield (
        f"A regression is dearer beyond the noise, with its whole interval above {comparison.threshold:.1%}: "
        f"{len(comparison.regressions)} of {len(comparison.changes)}. Were nothing different, up to "
        f"{judged / 20:.1f} of them would look dearer or cheaper at 95 %."
    )
    yield from _boot_notes(comparison)
    for missing in comparison.missing:
        yield f"Not compared: {missing}."


def _boot_notes(comparison: Comparison) -> Iterator[str]:
    if comparison.ignores_boots:
        yield "What a boot changes was ignored, as you asked: a change may be that of the boot."
    if any(change.verdict is Verdict.ONE_BOOT for change in comparison.changes):
        yield (
            "Where a run knows one boot only, a change may be that of the boot: measure both with '--fresh 1', or say "
            "'--ignore-boots'."
        )


def render_list(found: Sequence[Found]) -> dict[str, Any]:
    """Make the JSON document of the results in a directory; a file that cannot be read has its `trouble`."""
    return {"schema": LIST_SCHEMA, "results": [_render_found(it) for it in found]}


def _render_found(found: Found) -> dict[str, Any]:
    if found.results is None:
        return {"name": found.path.stem, "path": str(found.path), "trouble": found.trouble}
    results = found.results
    return {
        "name": found.path.stem,
        "path": str(found.path),
        "title": results.title,
        "created": results.created,
        "ending": results.ending.value,
        "rounds": max((call.round for call in results.calls), default=0),
        "levels": [level.name for level in results.levels],
        "emulated": [level.name for level in results.levels if level.is_emulated],
    }


def render_list_table(found: Sequence[Found]) -> Table:
    """Make a table of the results in a directory, with what is wrong with those that cannot be read."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for head in ("Name", "Lab", "Measured (UTC)", "Rounds", "Levels", ""):
        table.add_column(Text(head))
    for it in (_render_found(it) for it in found):
        if "trouble" in it:
            table.add_row(Text(it["name"]), "", "", "", "", Text(f"cannot be read: {it['trouble']}"))
            continue
        levels = (f"{name} {EMULATED}" if name in it["emulated"] else name for name in it["levels"])
        ending = "" if it["ending"] == "complete" else it["ending"]
        cells = (it["name"], it["title"], it["created"][:19], str(it["rounds"]), ", ".join(levels), ending)
        table.add_row(*(Text(cell) for cell in cells))
    return table
