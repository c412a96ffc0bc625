"""Do several things at once, with an end that Ctrl-C reaches, and failures that keep nobody else from theirs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

from nestctl.errors import NestctlError, SeveralError

Result = TypeVar("Result")

# One more than there are CPUs: a guest that boots waits for its disk and its clocks now and then.
DEFAULT_JOBS = (os.cpu_count() or 1) + 1


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A guest that could not be brought up or removed, and why."""

    name: str
    error: NestctlError


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


def raise_failures(failures: list[Failure]) -> None:
    """Raise the error of the only guest that failed, or one that has all of them, with the worst exit code."""
    if len(failures) == 1:
        raise failures[0].error
    if failures:
        raise SeveralError([(it.name, it.error) for it in failures])
