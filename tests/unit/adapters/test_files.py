from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nestctl.adapters.files import hold_lock, write_atomically
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError


def test_a_file_has_its_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old and much longer")
    write_atomically(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [it.name for it in tmp_path.iterdir()] == ["key"]


def test_the_mode_is_not_the_umasks(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "open", b"", mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o644


def test_a_file_that_cannot_be_replaced_stays_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "directory", b"new")
    assert [it.name for it in tmp_path.iterdir()] == ["directory"]


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([65 + n]) * 200_000 for n in range(8)]
    write_atomically(path, contents[0])

    def write_all() -> None:
        for content in contents:
            write_atomically(path, content)

    writer = threading.Thread(target=write_all)
    writer.start()
    seen = {path.read_bytes() for _ in range(300)}
    writer.join()
    assert seen <= set(contents)


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "locks/one"
    with (
        hold_lock(path, Deadline.after(5, "Locking")),
        pytest.raises(DeadlineError, match="Waiting for the other"),
        hold_lock(path, Deadline.after(0.1, "Waiting for the other")),
    ):
        pytest.fail("two hold it")
    with hold_lock(path, Deadline.after(0, "Locking")):
        assert path.exists()


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", ["first"]

    def take_second() -> None:
        with hold_lock(path, Deadline.after(20, "Locking")):
            order.append("second")

    with hold_lock(path, Deadline.after(5, "Locking")):
        other = threading.Thread(target=take_second)
        other.start()
        order.append("still first")
    other.join()
    assert order == ["first", "still first", "second"]


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from nestctl.adapters.files import hold_lock;"
        "from nestctl.deadline import Deadline\n"
        "with hold_lock(Path(sys.argv[1]), Deadline.after(5, 'x')): print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        with pytest.raises(DeadlineError), hold_lock(tmp_path / "lock", Deadline.after(0, "It")):
            pytest.fail("two hold it")
        process.kill()
    with hold_lock(tmp_path / "lock", Deadline.after(20, "It")):
        pass
