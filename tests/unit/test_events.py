from __future__ import annotations

import json
import os
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from nestctl import console
from nestctl.errors import GuestError
from nestctl.events import EventLog, open_events


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return open_events(tmp_path / "events")


def read(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]


def test_a_step_is_told_when_it_begins_and_when_it_has_ended(log: EventLog, tmp_path: Path) -> None:
    with log.step("Booting l2 – now", lab="demo", node="l2", level=2):
        (begun,) = read(tmp_path)
    _, done = read(tmp_path)
    about = {"schema": "nestctl.event/1", "step": 1, "lab": "demo", "node": "l2", "level": 2, "process": os.getpid()}
    for event in (begun, done):
        assert about.items() <= event.items()
        assert event["text"] == "Booting l2 – now"
        assert datetime.fromisoformat(event["time"]).tzinfo is not None
    assert (begun["event"], done["event"]) == ("begun", "done")
    assert "duration_s" not in begun
    assert done["duration_s"] >= 0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GuestError("The guest 'l1' has stopped."), "The guest 'l1' has stopped."),
        (KeyboardInterrupt(), "interrupted"),
        (ValueError("x"), "ValueError('x')"),
    ],
)
def test_a_step_that_fails_says_why_and_goes_on_failing(
    error: BaseException, said: str, log: EventLog, tmp_path: Path
) -> None:
    with pytest.raises(type(error)), log.step("Trying"):
        raise error
    assert [(event["event"], event.get("error")) for event in read(tmp_path)] == [("begun", None), ("failed", said)]


def test_steps_inside_steps_and_beside_them_are_told_apart(log: EventLog, tmp_path: Path) -> None:
    def work(number: int) -> None:
        with log.step(f"outer {number}"), log.step(f"inner {number}"):
            pass

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = read(tmp_path)
    assert len(events) == 80
    assert {event["step"] for event in events} == set(range(1, 41))
    for number in {event["step"] for event in events}:
        assert [event["event"] for event in events if event["step"] == number] == ["begun", "done"]


def test_what_is_in_the_file_stays(log: EventLog, tmp_path: Path) -> None:
    with log.step("first"):
        pass
    with open_events(tmp_path / "events").step("second"):
        pass
    assert [event["text"] for event in read(tmp_path)] == ["first", "first", "second", "second"]


def test_a_reader_that_goes_away_stops_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    log = EventLog(writing)
    os.close(reading)
    with log.step("on and on"):
        assert log.trouble == "Broken pipe"
    os.close(writing)


def test_what_the_user_is_shown_goes_to_the_log(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_events", None)
    with console.step("unheard", lab="demo"):
        pass
    console.send_events(log)
    with console.step("Booting l1", lab="demo", node="l1", level=1):
        pass
    assert [(event["text"], event["node"]) for event in read(tmp_path)] == [("Booting l1", "l1")] * 2
    assert "Booting l1: done in" in capsys.readouterr().err
