"""What the user sees: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

    from nestctl.errors import NestctlError
    from nestctl.events import EventLog

WITHOUT_TERMINAL = 160  # columns

# Where nobody looks at a terminal, how often a long step says how far it is.
_SAY_AGAIN_S = 10.0

_start_s = time.monotonic()
_events: EventLog | None = None


def print_result(text: str) -> None:
    """Print a line (or lines) of a result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_hanging(text: str, *, indent: int) -> None:
    """Print lines of a result; on a terminal that is too narrow they go on below their text, not below their head."""
    if sys.stdout.isatty():
        import textwrap

        width, head = result_width(), " " * indent
        text = "\n".join(
            textwrap.fill(line, width, subsequent_indent=head, break_on_hyphens=False) for line in text.split("\n")
        )
    print_result(text)


def result_width() -> int:
    """Return the columns there are for results: where nobody looks at a terminal, a table is not folded to 80."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WITHOUT_TERMINAL


def is_coloured() -> bool:
    """Say whether results may have colours (NO_COLOR: no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_json(document: Any) -> None:
    """Print a result as JSON, for other programs."""
    print_result(json.dumps(document, indent=2, ensure_ascii=False))


def print_piece(text: str) -> None:
    """Print a piece of a result that is too long to be held."""
    sys.stdout.write(text)
    sys.stdout.flush()


def print_rich(renderable: RenderableType) -> None:
    """Print a table or other Rich value as a result, without colour where it is no terminal."""
    _rich_console(sys.stdout.isatty()).print(renderable)


@contextmanager
def live(make: Callable[[Any], RenderableType]) -> Iterator[Callable[[Any], None]]:
    """Show a table of a result on the terminal that is drawn anew with each value that the caller gives."""
    from rich.live import Live

    with Live(console=_rich_console(True), auto_refresh=False) as shown:
        yield lambda value: shown.update(make(value), refresh=True)


def say(text: str) -> None:
    """Tell the user something that is no result."""
    _steps.say(text)


def drop_errors() -> None:
    """Have what is said from now on go nowhere: nobody listens, and that is no reason to leave things half done."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def show_error(error: NestctlError) -> None:
    """Say what went wrong, and below it what to do about it."""
    say(f"nestctl: {error.message}")
    if error.hint:
        say(f"  {error.hint}")


def warn(text: str) -> None:
    say(f"nestctl: warning: {text}")


class _Steps:
    """The steps that go on now, on a terminal: one line that counts for each, below what has been said."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.progress: Progress | None = None

    @contextmanager
    def show(self, text: str) -> Iterator[Callable[[str], None]]:
        with self.lock:
            if self.progress is None:
                self.progress = _start_progress()
            progress = self.progress
            task = progress.add_task(text, total=None)
        try:
            yield lambda said: progress.update(task, description=said)
        finally:
            with self.lock:
                if self.progress:
                    self.progress.remove_task(task)
                    if not self.progress.tasks:
                        self.progress.stop()
                        self.progress = None

    def say(self, text: str) -> None:
        with self.lock:
            if self.progress:
                self.progress.console.out(text, highlight=False)
                return
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except OSError:
            drop_errors()


def _start_progress() -> Progress:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    progress = Progress(*columns, console=_rich_console(True, stderr=True), transient=True)
    progress.start()
    return progress


_steps = _Steps()


def send_events(log: EventLog) -> None:
    """Have every step written to a log as well, from now on."""
    global _events
    _events = log


@contextmanager
def step(text: str, *, lab: str = "", node: str = "", level: int = 0) -> Iterator[None]:
    """Show that something is being done, with the time that has passed; several threads may be at it.

    On a terminal a line that counts; elsewhere a plain line when it begins and one when it has ended. What it is about
    is for programs that read events.
    """
    with _events.step(text, lab=lab, node=node, level=level) if _events else nullcontext(), _shown(text):
        yield


@contextmanager
def progress(text: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a step that moves bytes: it is called with how many there are, and how many there will be if that is known.

    On a terminal the line has them; elsewhere a line says so every ten seconds.
    """
    said_s = time.monotonic()

    with _events.step(text) if _events else nullcontext(), _shown(text) as update:

        def count(received: int, total: int | None) -> None:
            nonlocal said_s
            share = f"{received / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"{received / 1e6:.0f} MB"
            if sys.stderr.isatty():
                update(f"{text}: {share}")
            elif time.monotonic() - said_s >= _SAY_AGAIN_S:
                said_s = time.monotonic()
                say(f"[{said_s - _start_s:6.1f}s] {text}: {share}")

        yield count


@contextmanager
def _shown(text: str) -> Iterator[Callable[[str], None]]:
    begun_s = time.monotonic()
    if sys.stderr.isatty():
        with _steps.show(text) as update:
            yield update
    else:
        say(f"[{begun_s - _start_s:6.1f}s] {text} ...")
        yield say
    say(f"[{time.monotonic() - _start_s:6.1f}s] {text}: done in {time.monotonic() - begun_s:.1f} s")


def _rich_console(is_terminal: bool, *, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(
        stderr=stderr, width=None if is_terminal else WITHOUT_TERMINAL, highlight=False, soft_wrap=not is_terminal
    )
