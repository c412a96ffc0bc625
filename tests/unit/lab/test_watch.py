"""What an instructor sees: what has become another, as a line, as JSON, in a table."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from nestctl.console import WITHOUT_TERMINAL
from nestctl.lab.report import render_rows
from nestctl.lab.watch import Row, describe_seen, list_seen, render_seen, wait_for_files

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def row(name: str, state: str = "running", **about: int) -> Row:
    return Row(lab="class", name=name, level=1, state=state, accelerator="kvm", **about)  # type: ignore[arg-type]


def said(before: list[Row], after: list[Row]) -> list[str]:
    known = {(it.lab, it.name): it for it in before}
    return [describe_seen(it).split("  ", 1)[1] for it in list_seen(known, after, NOW)]


def test_everything_is_told_once_and_then_what_changes() -> None:
    assert said([], [row("ann"), row("bob", "off")]) == ["class/ann  L1  running", "class/bob  L1  off"]
    assert said([row("ann"), row("bob", "off")], [row("ann"), row("bob", "off")]) == []
    assert said([row("ann")], [row("ann", "unreachable")]) == ["class/ann  L1  running -> unreachable"]


def test_a_guest_that_is_gone_or_made_anew_is_told_of() -> None:
    assert said([row("ann")], []) == ["class/ann  L1  running -> gone"]
    assert said([row("ann", age_s=500)], [row("ann", age_s=20)]) == ["class/ann  L1  running, made anew"]
    assert said([row("ann", age_s=500)], [row("ann", age_s=505)]) == []


def test_a_lab_that_cannot_be_looked_at_says_why_and_comes_back() -> None:
    trouble = Row(lab="class", name="", level=0, state="Its key is lost.")
    assert said([], [trouble]) == ["class  Its key is lost."]
    assert said([trouble], [row("ann")]) == ["class/ann  L1  running"]


def test_a_change_is_a_line_of_json_for_programs() -> None:
    (seen,) = list_seen({}, [row("ann")], NOW)
    document = json.loads(json.dumps(render_seen(seen)))
    assert document["schema"] == "nestctl.watch/1"
    assert (document["time"], document["name"], document["before"]) == ("2026-01-02T03:04:05+00:00", "ann", "")


def test_the_table_has_a_row_for_every_guest() -> None:
    from rich.console import Console

    console = Console(width=WITHOUT_TERMINAL, color_system=None)
    inner = Row(lab="class", name="ann-vm", level=2, state="off")
    trouble = Row(lab="other", name="", level=0, state="[its] key is lost.")
    with console.capture() as capture:
        console.print(render_rows((row("ann", memory_mib=512, age_s=90), inner, trouble)))
    lines = [" ".join(line.split()) for line in capture.get().splitlines() if line.strip()]
    assert lines[0].startswith("1 of 2 running")
    assert lines[3:] == [
        "class/ann L1 running KVM - 512 MiB 1 min",
        "class/ann-vm L2 off - - 0 MiB -",
        "other [its] key is lost.",
    ]


def test_files_that_come_and_go_end_the_wait(tmp_path: Path) -> None:
    missing = tmp_path / "not-yet"
    for change in (missing.mkdir, (missing / "a").touch, (missing / "a").unlink):
        timer = threading.Timer(0.1, change)
        timer.start()
        begun_s = time.monotonic()
        wait_for_files([missing], 30)
        assert time.monotonic() - begun_s < 10
        timer.join()
        time.sleep(0.02)  # the next change has another time
    wait_for_files([missing], 0.01)
