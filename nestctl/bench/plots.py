"""Plots of a summary as SVG, to be put into a page: no file, no window, no state of matplotlib's is changed."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nestctl.bench.summary import Figure, Row, Summary
from nestctl.errors import PrerequisiteError
from nestctl.model.samples import LevelRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

MATPLOTLIB_HINT = "Run script/setup in a checkout; elsewhere 'pipx inject nestctl matplotlib'."

# Okabe and Ito's colours, which people who do not see all colours can tell apart; the marker differs as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH_INCHES = 4.6  # on a phone's screen the text then keeps a size that can be read
MOST_ROWS = 16  # of a plot of workloads: two stand side by side on a screen, and above other things on a printed page
MOST_COLUMNS = 3  # of a legend: a fourth emulated level would be cut off
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a level may be called 'a$b'
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
Draw = Callable[["Axes"], None]


def plot_ratios(summary: Summary) -> tuple[str, ...]:
    """Show for each workload how many times as dear each level is as the level above it, with the interval."""
    rows = [row for row in summary.rows if any(figure.ratios for figure in row.figures)]
    return _render_parts("ratios", rows, 0.42, lambda part, axes: _draw_ratios(axes, summary, part))


def plot_exits(summary: Summary) -> tuple[str, ...]:
    """Show for each workload how many exits KVM counted per operation on each level; none counted is no mark.

    The axis is logarithmic, for a loop has one in a hundred thousand turns and a disk read several.
    """
    rows = [row for row in summary.rows if any(figure.exits_per_operation for figure in row.figures)]
    return _render_parts("exits", rows, 0.3, lambda part, axes: _draw_exits(axes, summary, part))


def plot_samples(row: Row) -> str:
    """Show every sample of a workload over the time of the run: drift, outliers and failures are seen here."""
    if not any(figure.points for figure in row.figures):
        return ""
    return _render(row.workload.name, 2.5, lambda axes: _draw_samples(axes, row))


def _draw_ratios(axes: Axes, summary: Summary, rows: Sequence[Row]) -> None:
    levels = [level for level in summary.results.levels if level.above is not None]
    for number, row in enumerate(rows):
        _draw_noise(axes, row, number)
    for place, level in enumerate(levels):
        offset = (place - (len(levels) - 1) / 2) * 0.5 / len(levels)
        for number, row in enumerate(rows):
            figure = next(figure for figure in row.figures if figure.level.name == level.name)
            if figure.ratios:
                _draw_ratio(axes, figure, number + offset, summary)
        axes.plot([], [], **_style(level, summary), linestyle="none", label=f"{_label(level)} against {level.above}")
    axes.set_xlim(*_limits(summary))
    _frame(axes, rows, "times as dear (right is slower)", unit="×", legend_columns=1)


def _limits(summary: Summary) -> tuple[float, float]:
    """Choose the ends of the axis of ratios, the same for all parts of a plot.

    An interval is shown up to ten times beyond all ratios: one of two boots may have ends that nobody can read.
    """
    ratios = [figure.ratios[0] for row in summary.rows for figure in row.figures if figure.ratios]
    values = [1.0, *(ratio.value for ratio in ratios)]
    ends = [end for ratio in ratios if ratio.interval for end in (ratio.interval.low, ratio.interval.high)]
    low, high = min(values), max(values)
    return max(min([low, *ends]), low / 10) / 1.3, min(max([high, *ends]), high * 10) * 1.3


def _draw_exits(axes: Axes, summary: Summary, rows: Sequence[Row]) -> None:
    for place, level in enumerate(summary.results.levels):
        counted = [(row.figures[place].exits_per_operation, number) for number, row in enumerate(rows)]
        marks = [(exits, number) for exits, number in counted if exits]
        if marks:
            axes.plot(*zip(*marks, strict=True), **_style(level, summary), linestyle="none", label=_label(level))
    _frame(axes, rows, "exits per operation", unit="", legend_columns=MOST_COLUMNS)


def _frame(axes: Axes, rows: Sequence[Row], label: str, *, unit: str, legend_columns: int) -> None:
    """Put a line for each workload, from the top, on a logarithmic axis with a mark at 1."""
    axes.axvline(1, color="#555555", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel(label)
    _label_ticks(axes.xaxis, unit)
    axes.set_yticks(range(len(rows)), [row.workload.title for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _add_legend(axes, legend_columns)


def _add_legend(axes: Axes, columns: int) -> None:
    """Put it above, over the whole width: beside long names of workloads the axes alone are too narrow for it."""
    axes.figure.legend(loc="outside upper left", ncols=columns)


def _draw_ratio(axes: Axes, figure: Figure, height: float, summary: Summary) -> None:
    ratio = figure.ratios[0]
    low, high = (ratio.interval.low, ratio.interval.high) if ratio.interval else (ratio.value, ratio.value)
    # A bootstrap interval of few values need not have the ratio inside.
    error = [[max(0.0, ratio.value - low)], [max(0.0, high - ratio.value)]]
    axes.errorbar([ratio.value], [height], xerr=error, capsize=3, **_style(figure.level, summary))


def _draw_noise(axes: Axes, row: Row, number: int) -> None:
    if row.noise is not None and row.noise.low > 0:
        axes.barh(number, row.noise.high - row.noise.low, left=row.noise.low, height=0.9, color="#e9ecf0", zorder=0)


def _draw_samples(axes: Axes, row: Row) -> None:
    for place, figure in enumerate(row.figures):
        if figure.points:
            seconds, values = zip(*((point.seconds, point.value) for point in figure.points), strict=True)
            style = _style_at(place, figure.level)
            axes.plot(seconds, values, linestyle="none", **style, label=_label(figure.level))
            for point in figure.points:
                if point.is_outlier:
                    axes.plot(point.seconds, point.value, "o", markersize=11, fillstyle="none", color=style["color"])
    axes.set_yscale("log")
    _label_ticks(axes.yaxis, "")
    axes.set_xlabel("seconds since the run began")
    axes.set_ylabel(row.workload.unit)
    _add_legend(axes, min(len(row.figures), MOST_COLUMNS))


def _label_ticks(axis: Axis, unit: str) -> None:
    """Write numbers, also where less than a decade is shown and only minor ticks are there, and not too many."""
    from matplotlib.ticker import LogLocator

    low, high = axis.get_view_interval()
    is_short = 0 < low < high < 60 * low
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_short else (1,), numticks=12 if is_short else 6))
    axis.set_major_formatter(lambda value, _: f"{value:g}{unit}")
    axis.set_minor_formatter(lambda _value, _: "")


def _label(level: LevelRecord) -> str:
    return f"{level.name} (emulated)" if level.is_emulated else level.name


def _style(level: LevelRecord, summary: Summary) -> dict[str, Any]:
    return _style_at(summary.results.levels.index(level), level)


def _style_at(place: int, level: LevelRecord) -> dict[str, Any]:
    """Give a level its colour and marker; that of an emulated level is hollow."""
    colour = COLOURS[place % len(COLOURS)]
    face = "white" if level.is_emulated else colour
    return {"color": colour, "marker": MARKERS[place % len(MARKERS)], "markerfacecolor": face}


def _render_parts(
    name: str, rows: Sequence[Row], inches: float, draw: Callable[[Sequence[Row], Axes], None]
) -> tuple[str, ...]:
    """Draw as many plots as the workloads need, of about equal height; `inches` are those of a workload."""
    if not rows:
        return ()
    size = math.ceil(len(rows) / math.ceil(len(rows) / MOST_ROWS))
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return tuple(
        _render(f"{name}{number}", 0.9 + inches * len(part), partial(draw, part)) for number, part in enumerate(parts)
    )


def _render(name: str, height_inches: float, draw: Draw) -> str:
    """Draw one plot. Raises `PrerequisiteError` when matplotlib is not installed."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise PrerequisiteError(
            "The HTML report needs matplotlib, which is not installed.", hint=MATPLOTLIB_HINT
        ) from error
    # The salt keeps the names inside one plot from meaning something in another plot of the same page.
    with rc_context({**STYLE, "svg.hashsalt": name}):
        canvas = Canvas(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        draw(canvas.add_subplot())
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
