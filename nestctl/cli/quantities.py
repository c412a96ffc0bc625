"""Percentages and times as options take them; what is wrong is Typer's error, with the option's name."""

from __future__ import annotations

import typer


def parse_percent(text: str, option: str) -> float:
    """Read '5%' or '5' as 0.05. Raises `typer.BadParameter` that names the option."""
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 1000:  # NaN is refused too
        raise typer.BadParameter(f"'{text}' is not a percentage such as 5%.", param_hint=f"'{option}'")
    return percent / 100


def parse_precision(text: str, option: str) -> float:
    """Read a percentage that can be reached: more than none. Raises `typer.BadParameter` that names the option."""
    precision = parse_percent(text, option)
    if precision == 0:
        raise typer.BadParameter(f"'{text}' is never reached: say more than 0%.", param_hint=f"'{option}'")
    return precision


def parse_budget(text: str, option: str) -> float:
    """Read a time of one second to a week as seconds. Raises `typer.BadParameter` that names the option."""
    from nestctl.errors import UsageError
    from nestctl.model.duration import parse_duration

    try:
        seconds = parse_duration(text).total_seconds()
    except UsageError:
        seconds = 0.0
    if not 1 <= seconds <= 7 * 24 * 3600:
        raise typer.BadParameter(
            f"'{text}' is not a time from 1s to 7d, such as 90s, 5m or 1.5h.", param_hint=f"'{option}'"
        )
    return seconds
