"""Take samples: operations are counted and timed, and their count is chosen so that a sample fills its time."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator

from .disturbance import NS_PER_S, difference, read_disturbance
from .native import NotMeasuredError

Outcome = Dict[str, Any]
SampleRecord = Dict[str, Any]
Run = Callable[[int], Any]
Time = Callable[[int], SampleRecord]
Pause = Callable[[str], None]

LARGEST_COUNT = (1 << 32) - 1
RETRIES = 4
LONGEST_S = 5.0  # of the fewest operations: with calibrating it is done seven times, and a micro-guest has a minute


def _go_on(_at: str) -> None:
    """Do not pause."""


_pause: Pause = _go_on


@contextmanager
def pausing(pause: Pause) -> Iterator[None]:
    """Have `pause` called with 'begin' right before samples are taken, and with 'end' right after."""
    global _pause
    _pause = pause
    try:
        yield
    finally:
        _pause = _go_on


def clock_ns() -> int:
    """CLOCK_MONOTONIC_RAW, which nothing slews, in nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def timed(run_operations: Run, operations: int) -> SampleRecord:
    """Run so many operations, and return them as a sample with what disturbed it."""
    before = read_disturbance()
    begin_ns = clock_ns()
    run_operations(operations)
    end_ns = clock_ns()
    return {**sample(operations, begin_ns, end_ns), **difference(before, read_disturbance())}


def sample(operations: int, begin_ns: int, end_ns: int) -> SampleRecord:
    """Make the record of one sample; times are of CLOCK_MONOTONIC_RAW, in nanoseconds."""
    return {"operations": operations, "elapsed_ns": end_ns - begin_ns, "begin_ns": begin_ns, "end_ns": end_ns}


def take_samples(run_operations: Run, samples: int, target_ns: int, first_count: int) -> list[SampleRecord]:
    """Time `run_operations` with the count that fills the time; see `take_timed`."""
    return take_timed(lambda count: timed(run_operations, count), samples, target_ns, first_count)


def take_timed(
    time_operations: Time,
    samples: int,
    target_ns: int,
    first_count: int,
    *,
    most: int = LARGEST_COUNT,
    warm_ups: int = 0,
) -> list[SampleRecord]:
    """Double the count until it takes an eighth of `target_ns`, then take the samples with the one that fills it.

    At most `most` operations are asked for at once; then a sample is as short as those are. At least `first_count` are;
    then a sample is as long as those are, for fewer would be priced with what starting and ending them costs.
    `warm_ups` more are taken before, and discarded. Raises `NotMeasuredError` where so few take longer than
    `LONGEST_S`.
    """
    operations = min(first_count, most)
    while True:
        elapsed_ns = time_operations(operations)["elapsed_ns"]
        if elapsed_ns > LONGEST_S * NS_PER_S:
            raise NotMeasuredError(
                f"what a sample needs at least takes {elapsed_ns / NS_PER_S:.0f} s here, more than {LONGEST_S:.0f}"
            )
        if elapsed_ns >= target_ns // 8:
            # Something else may have had the CPU just then: the shorter of two decides.
            elapsed_ns = min(elapsed_ns, time_operations(operations)["elapsed_ns"])
        if elapsed_ns >= target_ns // 8 or operations > most // 2:
            break
        operations *= 2
    filling = operations * target_ns // max(elapsed_ns, 1)
    operations = min(max(filling, first_count), most)
    for _ in range(warm_ups):
        time_operations(operations)
    for _ in range(RETRIES):
        _pause("begin")
        taken = [time_operations(operations) for _ in range(samples)]
        _pause("end")
        shortest_ns = max(min(record["elapsed_ns"] for record in taken), 1)
        if shortest_ns >= target_ns // 8 or operations == most:
            break
        # Calibrating was disturbed after all: so few operations would be priced with what starting them costs.
        operations = min(operations * target_ns // shortest_ns, most)
    return taken
