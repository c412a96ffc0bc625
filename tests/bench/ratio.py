"""Two ways to do one thing, timed in turn on the same machine in the same run; what counts is their ratio."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Wall times in seconds, pairwise: the n-th of either list were taken one after the other."""

    title: str
    ours_s: tuple[float, ...]
    theirs_s: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours_s) / statistics.median(self.theirs_s)

    def __str__(self) -> str:
        return f"{self.title}: {_spread(self.ours_s)} against {_spread(self.theirs_s)}, ratio {self.ratio:.3f}"


def compare(title: str, ours: Callable[[], float], theirs: Callable[[], float], *, runs: int) -> Comparison:
    """Run both `runs` times in turn, changing who begins. Each returns the seconds that count."""
    pairs = []
    for number in range(runs):
        if number % 2:
            theirs_s, ours_s = theirs(), ours()
        else:
            ours_s, theirs_s = ours(), theirs()
        pairs.append((ours_s, theirs_s))
    return Comparison(title=title, ours_s=tuple(a for a, _ in pairs), theirs_s=tuple(b for _, b in pairs))


def timed(action: Callable[[], object]) -> float:
    begun_s = time.monotonic()
    action()
    return time.monotonic() - begun_s


def _spread(values: tuple[float, ...]) -> str:
    return f"{statistics.median(values):.3f} s [{min(values):.3f}-{max(values):.3f}, n={len(values)}]"
