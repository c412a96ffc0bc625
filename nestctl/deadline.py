"""One point in time by which something has to be done, passed down to everything that waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from nestctl.errors import DeadlineError


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """A point on the monotonic clock; `purpose` completes the sentence "... in time".

    `stop` ends the wait as Ctrl-C does: only the main thread is interrupted by the system.
    """

    purpose: str
    timeout_s: float
    at_s: float
    stop: threading.Event | None = None

    @classmethod
    def after(cls, timeout_s: float, purpose: str, *, stop: threading.Event | None = None) -> Deadline:
        return cls(purpose=purpose, timeout_s=timeout_s, at_s=time.monotonic() + timeout_s, stop=stop)

    @property
    def remaining_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at_s - time.monotonic())

    @property
    def is_over(self) -> bool:
        return self.remaining_s == 0.0

    def check(self) -> None:
        """Raise `DeadlineError` when the time is over, and `KeyboardInterrupt` when it is to stop."""
        if self.stop and self.stop.is_set():
            raise KeyboardInterrupt
        if self.is_over:
            raise DeadlineError(f"{self.purpose} did not happen within {self.timeout_s:g} s.")

    def poll(self, interval_s: float = 0.05) -> Iterator[None]:
        """Yield once per try, `interval_s` apart, and raise `DeadlineError` when the time is over."""
        while True:
            yield
            self.check()
            time.sleep(min(interval_s, self.remaining_s))
