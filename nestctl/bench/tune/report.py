"""What trials came to, in words: as a table, as JSON, as Markdown, and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nestctl.bench.compare import Change
from nestctl.bench.export import escape_markdown
from nestctl.bench.report import (
    EMULATED,
    EMULATED_NOTE,
    ENDINGS,
    format_effect,
    format_ratio,
    format_spread,
)
from nestctl.bench.stats import FEWEST_FOR_INTERVAL
from nestctl.bench.tune.summary import Assessed, Effect, TuneSummary
from nestctl.bench.tune.trials import Refusal, Trial

if TYPE_CHECKING:
    from rich.console import Group

SCHEMA = "nestctl.bench-tune-summary/1"
LIST_SCHEMA = "nestctl.bench-tune-list/1"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial in words; `found` are the changes beyond the noise."""

    name: str
    title: str
    effect: str
    change: str
    boots: int
    found: tuple[str, ...]
    failure: str
    why: str
    source: str
    figures: tuple[tuple[str, ...], ...]


FIGURE_HEADS = ("Workload", "As it is", "With it", "With it / as it is", "")


def describe_rows(summary: TuneSummary) -> tuple[Row, ...]:
    """Describe every trial, what helped first."""
    order = list(Effect)
    ranked = sorted(summary.assessed, key=lambda it: order.index(it.effect))
    return tuple(_describe(it) for it in ranked)


def _describe(assessed: Assessed) -> Row:
    tried = assessed.tried
    return Row(
        name=tried.name,
        title=tried.title,
        effect=assessed.effect.value,
        change=f"{tried.was} → {tried.becomes}",
        boots=assessed.boots,
        found=tuple(f"{it.title}: {format_ratio(it.ratio, names_level=False)} {it.verdict}" for it in assessed.found),
        failure=tried.failure,
        why=tried.why,
        source=tried.source,
        figures=tuple(_figure(it) for it in assessed.changes),
    )


def _figure(change: Change) -> tuple[str, ...]:
    before, after = format_spread(change.before, change.unit), format_spread(change.after, change.unit)
    return change.title, before, after, format_ratio(change.ratio, names_level=False), change.verdict.value


def describe_tune_warnings(summary: TuneSummary) -> tuple[str, ...]:
    """Say what nobody may miss; first, if it is so, that the lab was not put back."""
    return tuple(_warnings(summary))


def describe_tune_notes(summary: TuneSummary) -> tuple[str, ...]:
    """Say how to read the trials."""
    return tuple(_notes(summary))


def _warnings(summary: TuneSummary) -> Iterator[str]:
    results = summary.results
    if results.trouble:
        yield f"NOT PUT BACK: {results.trouble}"
    if ENDINGS[results.ending]:
        yield ENDINGS[results.ending]
    if results.is_emulated:
        yield f"{EMULATED} ({results.guest}): {EMULATED_NOTE}. What helps here need not help on hardware."


def _notes(summary: TuneSummary) -> Iterator[str]:
    results = summary.results
    rounds = max((call.round for call in results.baseline.calls), default=0) if results.baseline else 0
    times = "once" if rounds == 1 else f"{rounds} times"
    yield (
        f"'{results.guest}' was booted anew for every value: {times} with each setting "
        f"and {2 * rounds} times as it is, half of them as control; in random order, every second round backwards. "
        "2× is twice as dear with the setting, whatever the unit; in brackets the 95 % interval."
    )
    if rounds < 2:
        yield "One round is too few for an interval, so nothing is said to differ."
    elif rounds < FEWEST_FOR_INTERVAL:
        yield f"Fewer than {FEWEST_FOR_INTERVAL} rounds: the intervals are Student's t, and wide."
    if summary.detectable:
        finds = ", ".join(f"{_title(summary, name)} {format_effect(it)}" for name, it in summary.detectable.items())
        yield f"A change is found four times in five when it is this large or larger: {finds}."
    if summary.comparisons:
        chance = summary.comparisons / 20
        yield (
            f"{summary.comparisons} figures were compared. Were nothing different, up to {chance:g} of "
            "them would look so at 95 % (fewer, as the noise of the control counts too): try again what you mean to "
            "keep."
        )


def _title(summary: TuneSummary, name: str) -> str:
    rows = summary.baseline.rows if summary.baseline else ()
    return next(row.workload.title for row in rows if row.workload.name == name)


def render_tune_table(summary: TuneSummary) -> Group:
    """Make a table of trials, above it what nobody may miss; below it how to read it and what could not be tried."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_lines=True)
    for head in ("Setting", "What was changed", "It", "Beyond the noise"):
        table.add_column(Text(head))
    for row in describe_rows(summary):
        cells = (f"{row.name}\n{row.title}", row.change, row.effect, "\n".join(row.found) or row.failure)
        table.add_row(*(Text(cell) for cell in cells))
    below = (*describe_tune_notes(summary), *describe_refused(summary))
    return Group(*map(Text, describe_tune_warnings(summary)), table, *map(Text, below))


def describe_refused(summary: TuneSummary) -> tuple[str, ...]:
    """Say each reason why something was not tried once, with all it holds for."""
    return tuple(f"Not tried: {text}" for text in _group((it.name, it.reason) for it in summary.results.refused))


def _group(pairs: Iterator[tuple[str, str]]) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for name, reason in pairs:
        reasons.setdefault(reason, []).append(name)
    return (f"{', '.join(names)}: {reason}." for reason, names in reasons.items())


def render_tune(summary: TuneSummary) -> dict[str, Any]:
    """Make the JSON document of what trials came to; the raw samples stay in the result file."""
    results = summary.results
    return {
        "schema": SCHEMA,
        "created": results.created,
        "lab": results.lab,
        "guest": results.guest,
        "emulated": results.is_emulated,
        "ending": results.ending.value,
        "put_back": not results.trouble,
        "warnings": list(describe_tune_warnings(summary)),
        "notes": [*describe_tune_warnings(summary), *describe_tune_notes(summary)],
        "detectable": summary.detectable,
        "trials": [_render_assessed(it) for it in summary.assessed],
        "refused": [it.model_dump(mode="json") for it in results.refused],
    }


def _render_assessed(assessed: Assessed) -> dict[str, Any]:
    tried = assessed.tried
    return {
        **tried.model_dump(mode="json", exclude={"results"}),
        "effect": assessed.effect.value,
        "boots": assessed.boots,
        "differences": list(assessed.differences),
        "figures": [_render_change(it) for it in assessed.changes],
    }


def _render_change(change: Change) -> dict[str, Any]:
    interval = change.ratio.interval
    return {
        "workload": change.workload,
        "unit": change.unit,
        "without": asdict(change.before),
        "with": asdict(change.after),
        "ratio": change.ratio.value,
        "ratio_low": interval.low if interval else None,
        "ratio_high": interval.high if interval else None,
        "verdict": change.verdict.value,
    }


def render_tune_markdown(summary: TuneSummary) -> str:
    """Write the trials with their figures; what a guest said cannot become markup of its own."""
    results = summary.results
    lines = [f"# What helps '{results.guest}' of the lab '{results.lab}'", ""]
    lines += [f"Measured {results.created} by nestctl {results.nestctl_version}.", ""]
    lines += [line for warning in describe_tune_warnings(summary) for line in (f"**{escape_markdown(warning)}**", "")]
    for row in describe_rows(summary):
        lines += [f"## {row.name}: {row.effect}", "", escape_markdown(f"{row.title}: {row.change}."), ""]
        lines += [escape_markdown(f"{row.why} ({row.source})"), ""]
        lines += [escape_markdown(f"Not tried to the end: {row.failure}"), ""] if row.failure else []
        lines += [*_markdown_table(row.figures), ""] if row.figures else []
    lines += ["## How to read this", "", *(f"- {escape_markdown(note)}" for note in describe_tune_notes(summary))]
    if refused := describe_refused(summary):
        lines += ["", "## What could not be tried", "", *(f"- {escape_markdown(text)}" for text in refused)]
    return "\n".join(lines) + "\n"


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    table = [FIGURE_HEADS, ("---",) * len(FIGURE_HEADS), *rows]
    return ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in table]


def render_tune_page(summary: TuneSummary) -> str:
    """Render the page, which needs no other file."""
    from nestctl.lab.render import render_page

    return render_page(
        "tune.html.j2",
        results=summary.results,
        rows=describe_rows(summary),
        warnings=describe_tune_warnings(summary),
        notes=describe_tune_notes(summary),
        refused=describe_refused(summary),
        heads=FIGURE_HEADS,
        emulated=EMULATED,
    )


def render_trials(trials: Sequence[Trial | Refusal]) -> dict[str, Any]:
    """Make the JSON document of what can be tried, and what not."""
    return {"schema": LIST_SCHEMA, "settings": [_render_trial(it) for it in trials]}


def _render_trial(trial: Trial | Refusal) -> dict[str, Any]:
    about = {"name": trial.name, "title": trial.setting.title, "why": trial.setting.why, "source": trial.setting.source}
    if isinstance(trial, Refusal):
        return {**about, "reason": trial.reason}
    return {**about, "was": trial.was, "becomes": trial.becomes}


def render_trials_table(trials: Sequence[Trial | Refusal]) -> Group:
    """Make a table of what can be tried, and say why the rest cannot."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_lines=True)
    for head in ("Setting", "What it changes", "Why it might matter"):
        table.add_column(Text(head))
    for trial in trials:
        if isinstance(trial, Trial):
            change, why = f"{trial.was} → {trial.becomes}", f"{trial.setting.why}\n({trial.setting.source})"
            table.add_row(*(Text(cell) for cell in (f"{trial.name}\n{trial.setting.title}", change, why)))
    refused = _group((it.name, it.reason) for it in trials if isinstance(it, Refusal))
    return Group(table, *(Text(f"Cannot be tried: {text}") for text in refused))
