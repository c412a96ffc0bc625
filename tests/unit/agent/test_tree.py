from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nestctl.agent.tree import RecordedTree, Tree


@pytest.fixture
def machine(tmp_path: Path) -> Tree:
    (tmp_path / "proc/1/fd").mkdir(parents=True)
    (tmp_path / "proc/1/fd/3").symlink_to("/dev/kvm")
    (tmp_path / "proc/1/fd/4").symlink_to("/dev/null")
    (tmp_path / "proc/text").write_text("one\ntwo\n")
    (tmp_path / "proc/bytes").write_bytes(b"\xff\x00")
    (tmp_path / "proc/empty").mkdir()
    return Tree(str(tmp_path))


def look_at_everything(tree: Tree) -> list[object]:
    """Ask for all there is, as collectors do, and say what came of it."""
    questions: list[Callable[[], object]] = [
        lambda: tree.text("proc/text"),
        lambda: tree.word("proc/text"),
        lambda: tree.read("proc/bytes"),
        lambda: tree.text("proc/missing"),
        lambda: tree.text("proc/empty"),
        lambda: tree.read("proc/bytes", limit=1),
        lambda: tree.names("proc/empty"),
        lambda: tree.names("proc/missing"),
        lambda: tree.names("proc/1"),
        lambda: tree.links("proc/1/fd", lambda target: target == "/dev/kvm"),
        lambda: tree.exists("proc/missing"),
        lambda: tree.exists("proc/1/fd/3"),
    ]
    return [_outcome(question) for question in questions]


def _outcome(question: Callable[[], object]) -> object:
    try:
        return question()
    except OSError as error:
        return error.errno


def test_a_recorded_machine_answers_as_the_machine_did(machine: Tree) -> None:
    answers = look_at_everything(machine)
    assert answers[:3] == ["one\ntwo\n", "one\ntwo", b"\xff\x00"]
    assert answers[9] == {"3": "/dev/kvm"}
    # What is remembered of a file is the last that was asked of it, and that was too much.
    recorded = RecordedTree({**machine.seen, "proc/bytes": {"base64": "/wA="}})
    assert look_at_everything(recorded) == answers


def test_only_what_is_kept_is_returned_and_remembered(tmp_path: Path) -> None:
    (tmp_path / "line").write_text("quiet password=secret")
    tree = Tree(str(tmp_path))
    assert tree.text("line", keep=lambda text: text.split()[0]) == "quiet"
    assert tree.seen == {"line": {"text": "quiet"}}


def test_links_that_are_not_wanted_are_forgotten(machine: Tree) -> None:
    machine.links("proc/1/fd", lambda target: target == "/dev/kvm")
    assert machine.seen == {"proc/1/fd/3": {"link": "/dev/kvm"}}


def test_a_file_that_is_too_large_is_not_read_on(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 101)
    with pytest.raises(OSError, match="too large"):
        Tree(str(tmp_path)).read("large", limit=100)


def test_a_pipe_that_nobody_writes_to_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert Tree(str(tmp_path)).read("pipe") == b""


def test_what_nobody_asked_for_is_not_there_in_a_recording() -> None:
    with pytest.raises(FileNotFoundError, match="/proc/other"):
        RecordedTree({"proc/text": {"text": ""}}).text("proc/other")


def test_an_error_is_repeated() -> None:
    with pytest.raises(PermissionError):
        RecordedTree({"proc/1/fd": {"error": "EACCES"}}).names("proc/1/fd")
