"""See a lab change while it does: what becomes of its guests, as soon as libvirt says that something happened."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nestctl.adapters.process import LocalShell
from nestctl.adapters.uri import EMBEDDED_URI, choose_uri, parse_embedded_root
from nestctl.deadline import Deadline
from nestctl.errors import ExitCode, NestctlError
from nestctl.lab.host import open_connection
from nestctl.lab.store import lab_directory

# A look at a lab of some depth whose guests do not answer; and how many are taken at once.
_LOOK_TIMEOUT_S = 300.0
_LOOKS = 4

# How often files are looked at where libvirt has no events for us, in seconds. It costs some calls of stat(2).
_STAMP_INTERVAL_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Row:
    """A guest as it was seen; of a lab that could not be looked at there is one row, whose `state` says why."""

    lab: str
    name: str
    level: int
    state: str
    accelerator: str = ""
    address: str = ""
    memory_mib: int = 0
    age_s: int | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Something that has become another: `before` is empty for what was not known of."""

    at: datetime
    row: Row
    before: str


def watch(
    labs: Mapping[str, str], *, connect: str | None, interval_s: float, show: Callable[[tuple[Row, ...]], None]
) -> None:
    """Look at labs, each by its name with the file or name to find it by, again and again.

    That is when something happened, and every `interval_s`, until the caller is interrupted. What happens inside guests
    is only seen by looking.
    """
    uri, stop = choose_uri(connect), threading.Event()
    with open_wake(uri, tuple(labs)) as wait, ThreadPoolExecutor(_LOOKS) as pool:
        try:
            while True:
                rows = pool.map(lambda it: look(it[0], it[1], uri, stop), labs.items())
                show(tuple(row for group in rows for row in group))
                wait(interval_s)
        finally:
            stop.set()


def look(lab: str, reference: str, uri: str, stop: threading.Event) -> tuple[Row, ...]:
    """Look at a lab by `nestctl status`, in a process of its own.

    libvirt's embedded driver belongs to one process at a time, until that ends: whoever watches must not keep it.
    """
    command = (sys.executable, "-m", "nestctl", "status", reference, "--json", "--connect", uri)
    deadline = Deadline.after(_LOOK_TIMEOUT_S, f"A look at '{lab}'", stop=stop)
    try:
        completed = LocalShell(stop=stop).run(command, deadline=deadline)
    except NestctlError as error:
        return (Row(lab=lab, name="", level=0, state=error.message),)
    if completed.exit_code in (ExitCode.OK, ExitCode.NO):
        with suppress(ValueError, KeyError, TypeError):
            return tuple(_flatten(lab, json.loads(completed.stdout)["guests"]))
    said = completed.stderr.decode(errors="replace").strip().splitlines()
    state = said[0].removeprefix("nestctl: ") if said else f"exit code {completed.exit_code}"
    return (Row(lab=lab, name="", level=0, state=state),)


def _flatten(lab: str, guests: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    for guest in guests:
        yield Row(
            lab=lab,
            name=guest["name"],
            level=guest["level"],
            state=guest["state"],
            accelerator=guest["accelerator"],
            address=f"{guest['address'] if guest['is_adopted'] else '127.0.0.1'}:{guest['ssh_port']}"
            if guest["ssh_port"]
            else guest["address"],
            memory_mib=guest["memory_mib"],
            age_s=guest["age_s"],
        )
        yield from _flatten(lab, guest["guests"])


def list_seen(before: Mapping[tuple[str, str], Row], rows: Iterable[Row], now: datetime) -> Iterator[Seen]:
    """Yield what has changed: the state of a guest, the guest that was made anew, and what is not there any more."""
    there = {(row.lab, row.name): row for row in rows}
    for key, row in there.items():
        old = before.get(key)
        if old is None or old.state != row.state or _is_another(old, row):
            yield Seen(at=now, row=row, before=old.state if old else "")
    for key, old in before.items():
        if key not in there:
            gone = Row(lab=old.lab, name=old.name, level=old.level, state="gone")
            if old.name:
                yield Seen(at=now, row=gone, before=old.state)


def _is_another(old: Row, new: Row) -> bool:
    """Tell whether a guest is younger than it was: it has been made anew between two looks."""
    return old.age_s is not None and new.age_s is not None and new.age_s < old.age_s


@contextmanager
def open_wake(uri: str, labs: tuple[str, ...]) -> Iterator[Callable[[float], None]]:
    """Return what waits until something happened to a domain of this machine, or until the time is over."""
    if uri.startswith(EMBEDDED_URI):
        watched = (parse_embedded_root(uri) / "run/qemu", *(lab_directory(lab) for lab in labs))
        yield lambda timeout_s: wait_for_files(watched, timeout_s)
        return
    happened = threading.Event()
    with open_connection(uri) as hypervisor, hypervisor.notify(happened.set):

        def wait(timeout_s: float) -> None:
            happened.wait(timeout_s)
            happened.clear()

        yield wait


def wait_for_files(directories: Iterable[Path], timeout_s: float) -> None:
    """Wait until a file appears in a directory, or goes from it, or until the time is over."""
    watched = tuple(directories)
    before, end_s = _stamps(watched), time.monotonic() + timeout_s
    while _stamps(watched) == before and (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(_STAMP_INTERVAL_S, left_s))


def _stamps(directories: tuple[Path, ...]) -> list[int]:
    stamps = []
    for directory in directories:
        try:
            stamps.append(directory.stat().st_mtime_ns)
        except OSError:
            stamps.append(0)
    return stamps


def render_seen(seen: Seen) -> dict[str, Any]:
    """Render a change as a line of the schema 'nestctl.watch/1'."""
    row = seen.row
    return {
        "schema": "nestctl.watch/1",
        "time": seen.at.astimezone(UTC).isoformat(timespec="seconds"),
        "lab": row.lab,
        "name": row.name,
        "level": row.level,
        "state": row.state,
        "before": seen.before,
        "accelerator": row.accelerator,
        "address": row.address,
    }


def describe_seen(seen: Seen) -> str:
    """Say a change in a line."""
    row = seen.row
    name = f"{row.lab}/{row.name}  L{row.level}" if row.name else row.lab
    change = f"{seen.before} -> {row.state}" if seen.before and seen.before != row.state else row.state
    anew = ", made anew" if seen.before == row.state else ""
    return f"{seen.at.astimezone():%H:%M:%S}  {name}  {change}{anew}"
