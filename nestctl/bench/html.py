"""The report as one HTML file that needs nothing else, and the files of a run."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from nestctl.adapters.files import write_atomically
from nestctl.bench.notes import describe_notes, describe_run
from nestctl.bench.plots import plot_exits, plot_ratios, plot_samples
from nestctl.bench.report import EMULATED, EMULATED_NOTE, control_level, describe_levels, describe_lines
from nestctl.bench.summary import Summary, summarize
from nestctl.model.samples import Results, render_results


@dataclass(frozen=True, kw_only=True)
class Written:
    """The files of a run; there is no report where matplotlib is not installed."""

    results: Path
    report: Path | None


def can_render_report() -> bool:
    """Tell whether matplotlib, which draws the plots, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def render_report(summary: Summary) -> str:
    """Render the page. Raises `PrerequisiteError` when matplotlib is not installed."""
    from nestctl.lab.render import render_page

    return render_page(
        "report.html.j2",
        results=summary.results,
        run=describe_run(summary),
        levels=describe_levels(summary),
        lines=describe_lines(summary),
        notes=describe_notes(summary),
        ratio_plots=plot_ratios(summary),
        exits_plots=plot_exits(summary),
        sample_plots=[(row.workload.title, plot) for row in summary.rows if (plot := plot_samples(row))],
        control=control_level(summary),
        has_noise=any(row.noise for row in summary.rows),
        emulated=EMULATED,
        emulated_note=EMULATED_NOTE,
    )


def write_results(results: Results, directory: Path) -> Written:
    """Write the raw results and, where matplotlib is installed, the report; both whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    stamp = "".join(character for character in results.created[:19] if character.isalnum())
    stem = f"bench-{results.title}-{stamp}" if results.title else f"bench-{stamp}"
    raw = directory / f"{stem}.json"
    write_atomically(raw, render_results(results).encode())
    if not can_render_report():
        return Written(results=raw, report=None)
    report = directory / f"{stem}.html"
    write_atomically(report, render_report(summarize(results)).encode())
    return Written(results=raw, report=report)
