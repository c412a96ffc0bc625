"""What is this machine's own; the rest of what a shell promises is in tests/contract."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nestctl.adapters.process import LocalShell, replace_process
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, PrerequisiteError


def soon() -> Deadline:
    return Deadline.after(20, "Running")


def test_a_shell_can_have_its_own_environment() -> None:
    shell = LocalShell(environment={"NESTCTL_TEST": "yes"})
    assert shell.run(("sh", "-c", 'echo $NESTCTL_TEST; test -n "$PATH"'), deadline=soon()).text == "yes"
    assert "NESTCTL_TEST" not in os.environ


def test_a_file_that_may_not_be_run_is_a_prerequisite(tmp_path: Path) -> None:
    (tmp_path / "program").touch(mode=0o644)
    with pytest.raises(PrerequisiteError, match="may not be run"):
        LocalShell().run((str(tmp_path / "program"),), deadline=soon())


def test_an_open_file_can_be_handed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    with (tmp_path / "file").open() as file:
        command = ("cat", f"/proc/self/fd/{file.fileno()}")
        assert LocalShell().run(command, deadline=soon(), descriptors=(file.fileno(),)).text == "hello"


def test_no_other_file_is(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        command = ("test", "-e", f"/proc/self/fd/{file.fileno()}")
        assert LocalShell().run(command, deadline=soon()).exit_code == 1


@pytest.mark.slow
def test_a_command_that_ignores_the_request_is_made_to_end(tmp_path: Path) -> None:
    script = 'trap "" TERM; echo $$ > "$1"; while true; do sleep 0.1; done'
    with pytest.raises(DeadlineError):
        LocalShell().run(("sh", "-c", script, "sh", str(tmp_path / "pid")), deadline=Deadline.after(0.3, "It"))
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_a_command_has_left_running_ends_with_it(tmp_path: Path) -> None:
    # The shell ends at once; what it started holds its output open.
    script = 'sleep 600 & echo $! > "$1"'
    with pytest.raises(DeadlineError):
        LocalShell().run(("sh", "-c", script, "sh", str(tmp_path / "pid")), deadline=Deadline.after(0.3, "It"))
    stat = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    for _ in soon().poll():
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return


def test_a_quick_command_is_not_held_up_by_its_deadline() -> None:
    begun_s = time.monotonic()
    LocalShell().run(("true",), deadline=Deadline.after(3600, "It"))
    assert time.monotonic() - begun_s < 600


def test_becoming_a_program_that_is_missing_is_a_prerequisite() -> None:
    with pytest.raises(PrerequisiteError, match="'nestctl-no-such' is not installed"):
        replace_process(("nestctl-no-such",))
