"""What is being done, as JSON lines for other programs: one object when a step begins, and one when it has ended."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nestctl.errors import NestctlError

SCHEMA = "nestctl.event/1"


class EventLog:
    """Writes events to an open file, each line at once and whole, so that several writers may share it.

    When the file cannot be written any more, as when a pipe's reader is gone, `trouble` says so and events are dropped:
    what is being done does not fail for it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._numbers = itertools.count(1)
        self.trouble = ""

    @contextmanager
    def step(self, text: str, *, lab: str = "", node: str = "", level: int = 0) -> Iterator[None]:
        """Write an event now, and another one, with the duration, when the context ends."""
        about = {"step": next(self._numbers), "text": text, "lab": lab, "node": node, "level": level}
        begun_s = time.monotonic()
        self._write("begun", about)
        try:
            yield
        except BaseException as error:
            self._write("failed", about, duration_s=_since(begun_s), error=_describe(error))
            raise
        self._write("done", about, duration_s=_since(begun_s))

    def _write(self, event: str, about: dict[str, Any], **more: Any) -> None:
        if self.trouble:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        document = {"schema": SCHEMA, "time": now, "process": os.getpid(), "event": event, **about, **more}
        try:
            os.write(self._descriptor, json.dumps(document, ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            self.trouble = error.strerror or repr(error)


def open_events(path: Path) -> EventLog:
    """Open a file, a pipe or /dev/fd/N for events; what is in a file stays. Raises `OSError`."""
    return EventLog(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644))


def _since(begun_s: float) -> float:
    return round(time.monotonic() - begun_s, 3)


def _describe(error: BaseException) -> str:
    if isinstance(error, NestctlError):
        return error.message
    return "interrupted" if isinstance(error, KeyboardInterrupt) else repr(error)
