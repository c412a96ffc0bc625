"""Do several things at once, with an end that Ctrl-C reaches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

Result = TypeVar("Result")


def run_all(tasks: Sequence[Callable[[], Result]], *, jobs: int, stop: threading.Event) -> tuple[Result, ...]:
    """Run tasks, at most `jobs` at once, and return their results in order; a single one runs in this thread.

    All of them come to their ends before the first error is raised. An interruption sets `stop`, which ends what waits
    for a `Deadline` that has it, and begins no further task.
    """
    if len(tasks) <= 1 or jobs <= 1:
        return tuple(task() for task in tasks)
    with ThreadPoolExecutor(max_workers=min(jobs, len(tasks)), thread_name_prefix="nestctl") as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            wait(futures)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return tuple(future.result() for future in futures)
