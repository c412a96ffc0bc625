"""The process dies at every step that it announces: `up` goes on from there, `down` does too, and nothing stays.

One lab goes through all of it, as booting takes the time: `up` is killed when a step begins and when it has ended, and
the next one is let run until a step that is new. Guests that were begun boot on meanwhile, as after a real crash.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nestctl.image.store import Image
from tests.nested.harness import Lab, wait_until

LAB = """
name: crash
guests:
  l1:
    memory_mib: 1152
    guests:
      l2: {memory_mib: 512, disk_gib: 4}
"""

Moment = tuple[str, str]

# What `up` has to have announced, so that this test is about all of it.
STEPS = (
    "Booting l1",
    "Preparing l1.crash for guests",
    "Booting l2",
)


@pytest.fixture
def crash(image: Image, state: Path) -> Iterator[Lab]:
    assert image.disk.exists()
    with Lab(directory=state.parent, name="crash").removed_in_the_end() as lab:
        lab.write(LAB)
        yield lab


def test_whatever_step_it_is_killed_at_the_next_one_goes_on(crash: Lab) -> None:
    moments = _kill_at_every_moment(crash, "up")
    for step in STEPS:
        assert {event for event, text in moments if text.startswith(step)} == {"begun", "done"}, moments
    assert crash.nestctl("status", "--json").expect(0).json["is_up"]
    assert "nothing to do" in crash.nestctl("plan").expect(0).stdout
    assert crash.nestctl("ssh", "l2", "--", "systemd-detect-virt").expect(0).stdout == "kvm\n"

    _l2_is_begun_again_and_down_finds_it_half_made(crash)

    moments = _kill_at_every_moment(crash, "down")
    assert {(event, text) for event, text in moments if text == "Removing l1"} == {
        ("begun", "Removing l1"),
        ("done", "Removing l1"),
    }
    assert crash.nestctl("audit", "crash", "--json").expect(0).json["traces"] == []


def _l2_is_begun_again_and_down_finds_it_half_made(lab: Lab) -> None:
    """Remove l2 behind nestctl's back; `up` is killed while it makes it anew."""
    virsh = "virsh -q -c qemu:///system"
    lab.nestctl("ssh", "l1", f"{virsh} destroy crash-l2; {virsh} undefine crash-l2").expect(0)
    events = lab.directory / "events-half"
    with lab.start("--events", str(events), "up") as process:
        wait_until(lambda: any(it["text"].startswith("Booting l2") for it in _read(events)), timeout_s=300)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)


def _kill_at_every_moment(lab: Lab, command: str) -> list[Moment]:
    """Run a command over and over, each time until a moment that it was not killed at yet; return these moments."""
    killed: list[Moment] = []
    for number in range(40):
        events = lab.directory / f"events-{command}-{number}"
        with lab.start("--events", str(events), command) as process:
            wait_until(
                lambda events=events, process=process: _find_new(events, killed) or process.poll() is not None,
                timeout_s=900,
            )
            if new := _find_new(events, killed):
                process.send_signal(signal.SIGKILL)
                process.wait(timeout=60)
                killed.append(new)
            else:
                assert process.wait(timeout=60) == 0, process.communicate()[1]
                return killed
    raise AssertionError(f"it never ends: {killed}")


def _find_new(events: Path, known: list[Moment]) -> Moment | None:
    return next((it for event in _read(events) if (it := (event["event"], event["text"])) not in known), None)


def _read(events: Path) -> list[dict[str, Any]]:
    """Read the events that are there; the last line may be half written."""
    if not events.exists():
        return []
    return [json.loads(line) for line in events.read_text().splitlines(keepends=True) if line.endswith("\n")]
