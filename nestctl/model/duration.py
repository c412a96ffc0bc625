"""How people write a length of time: a number and its unit, such as 90s, 1.5h or 14d."""

from __future__ import annotations

import re
from datetime import timedelta

from nestctl.errors import UsageError

# More than none, and at most 99,999 days. Without look-ahead, which JSON Schema's readers need not have.
DURATION = r"([1-9][0-9]{0,4}(\.[0-9]{1,2})?|0\.([1-9][0-9]?|0[1-9]))[smhd]"

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(text: str) -> timedelta:
    """Parse a number and s, m, h or d. Raises `UsageError`."""
    if not re.fullmatch(DURATION, text):
        raise UsageError(f"'{text}' is no time: write a number and s, m, h or d, such as 90s, 1.5h or 14d.")
    return timedelta(**{_UNITS[text[-1]]: float(text[:-1])})
