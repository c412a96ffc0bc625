"""Commands, files and logs of guests, by the real ssh and scp: a server on loopback stands where guests are.

It answers as l1, and once more behind itself as l2, so that every hop of a guest inside a guest is made.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from nestctl.errors import ExitCode
from nestctl.lab.store import keep_lab
from tests.builders import lab_of_depth
from tests.nested.harness import wait_until
from tests.unit.cli.run import nestctl

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def lab(reachable: Path) -> Path:
    return reachable


@pytest.mark.parametrize("guest", ["l1", "l2", "demo/l2"])
def test_a_commands_streams_and_exit_code_are_its_own(guest: str) -> None:
    completed = nestctl("exec", guest, "--", "sh", "-c", 'echo "$1"; echo wrong >&2; tty; exit 7', "sh", "a  b")
    assert completed.returncode == 7
    assert completed.stdout == "a  b\nnot a tty\n"
    assert completed.stderr == "wrong\n"


def test_many_guests_run_a_command_at_once_and_say_who_they_are() -> None:
    completed = nestctl("exec", "demo/*", "--", "sh", "-c", "echo one; echo two; echo bad >&2")
    assert completed.returncode == 0
    assert completed.stdout == "l1: one\nl1: two\nl2: one\nl2: two\n"
    assert completed.stderr == "l1: bad\nl2: bad\n"


def test_a_command_that_fails_in_one_of_many_is_no() -> None:
    assert nestctl("exec", "l*", "--", "false").returncode == ExitCode.NO


def test_a_guest_that_does_not_answer_is_a_failure_and_the_others_have_their_result(lab: Path) -> None:
    config = lab / "ssh_config"
    config.write_text(config.read_text().replace("    HostName 127.0.0.1\n    ProxyJump l1\n", "    Port 1\n", 1))
    completed = nestctl("exec", "--json", "l*", "--", "echo", "here")
    assert completed.returncode == ExitCode.FAILED
    document = json.loads(completed.stdout)
    assert document["schema"] == "nestctl.exec/1"
    first, second = document["guests"]
    assert (first["name"], first["exit_code"], first["stdout"], first["trouble"]) == ("l1", 0, "here\n", "")
    assert (second["name"], second["exit_code"]) == ("l2", None)
    assert second["trouble"].startswith("It cannot be reached: ")


def test_a_command_that_takes_too_long_is_ended() -> None:
    completed = nestctl("exec", "--timeout", "1", "--json", "l1", "--", "sleep", "600")
    assert completed.returncode == ExitCode.FAILED
    (guest,) = json.loads(completed.stdout)["guests"]
    assert guest["exit_code"] is None
    assert "did not end within 1 s" in guest["trouble"]


# The same test runs beside it in other processes: each looks for its own command.
_LONG = str(600 + os.getpid())


@pytest.mark.parametrize("words", [("sleep", _LONG), (f"sleep {_LONG}; true",)], ids=["program", "text"])
@pytest.mark.parametrize("how", [("--json",), ()])
def test_what_takes_too_long_is_ended_in_the_guest_too(words: tuple[str, ...], how: tuple[str, ...]) -> None:
    completed = nestctl("exec", "--timeout", "1", *how, "l1", "--", *words)
    assert completed.returncode == (ExitCode.FAILED if how else 124)
    assert not [it for it in Path("/proc").glob("[0-9]*/cmdline") if _reads(it) == ["sleep", _LONG]]


@pytest.mark.parametrize(("how", "code"), [(("--json",), ExitCode.FAILED), ((), 137)])
def test_what_does_not_end_when_it_is_told_to_is_killed_and_was_late(how: tuple[str, ...], code: int) -> None:
    stubborn = "trap '' TERM; echo deaf; echo deaf >&2; while :; do sleep 1; done"
    completed = nestctl("exec", "--timeout", "1", *how, "l1", "--", stubborn)
    assert completed.returncode == code
    if not how:
        assert completed.stdout == "deaf\n"
        assert completed.stderr.startswith("deaf\n")
        return
    (guest,) = json.loads(completed.stdout)["guests"]
    assert (guest["exit_code"], guest["stdout"]) == (None, "deaf\n")
    assert guest["trouble"] == "It did not end within 1 s, and was ended."


def _reads(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text().rstrip("\0").split("\0")
    return []


def test_one_word_is_a_shells_text_within_its_time() -> None:
    assert nestctl("exec", "l1", "--", "echo $((1+1)); exit 3").stdout == "2\n"


def test_an_interruption_ends_it_at_once() -> None:
    command = [sys.executable, "-m", "nestctl", "exec", "l*", "--", "sleep 600"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: [it for it in children_of(process.pid) if it == "ssh"])
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "Traceback" not in said


def children_of(pid: int) -> list[str]:
    """The programs that a process has started, as the kernel names them."""
    names = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, fields = stat.read_text().partition(" (")[2].rpartition(") ")
            if int(fields.split()[1]) == pid:
                names.append(name)
    return names


def test_exec_needs_a_command() -> None:
    completed = nestctl("exec", "l1")
    assert completed.returncode == ExitCode.USAGE
    assert "Missing argument" in completed.stderr


@pytest.mark.parametrize("guest", ["l1", "demo/l2"])
def test_files_are_copied_both_ways(tmp_path: Path, guest: str) -> None:
    (tmp_path / "a file").write_bytes(b"\x00\xff content")
    assert nestctl("cp", "a file", f"{guest}:{tmp_path}/there").returncode == 0
    assert nestctl("cp", f"{guest}:{tmp_path}/there", "back:again").returncode != 0  # 'back' is no guest
    assert nestctl("cp", f"{guest}:{tmp_path}/there", "./back:again").returncode == 0
    assert (tmp_path / "back:again").read_bytes() == b"\x00\xff content"


def test_directories_and_several_files_are_copied(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "f").write_text("deep")
    (tmp_path / "g").write_text("flat")
    (tmp_path / "there").mkdir()
    assert nestctl("cp", "d", f"l2:{tmp_path}/there").returncode != 0
    assert nestctl("cp", "-r", "d", "g", f"l2:{tmp_path}/there").returncode == 0
    assert (tmp_path / "there/d/e/f").read_text() == "deep"
    assert (tmp_path / "there/g").read_text() == "flat"


def test_a_file_goes_from_one_guest_to_another(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert nestctl("cp", f"l1:{tmp_path}/a", f"l2:{tmp_path}/b").returncode == 0
    assert (tmp_path / "b").read_text() == "x"


def test_paths_that_name_no_guest_and_guests_of_two_labs_are_usage_errors() -> None:
    here = nestctl("cp", "a", "b")
    assert here.returncode == ExitCode.USAGE
    assert "None of these paths is a guest's." in here.stderr
    alone = nestctl("cp", "l1:a")
    assert alone.returncode == ExitCode.USAGE
    assert "Say what to copy and where to" in alone.stderr
    (keep_lab(lab_of_depth(1, "other")) / "ssh_config").touch()
    two = nestctl("cp", "demo/l1:a", "other/l1:b")
    assert two.returncode == ExitCode.USAGE
    assert "different labs: demo, other" in two.stderr


def test_the_console_of_a_guest_of_this_machine_is_printed(lab: Path) -> None:
    absent = nestctl("logs", "l1")
    assert absent.returncode == ExitCode.NOT_FOUND_OUT
    assert "The guest 'l1' has written no console log" in absent.stderr
    (lab / "l1.console.log").write_text("one\ntwo\nthree\n")
    assert nestctl("logs", "l1").stdout == "one\ntwo\nthree\n"
    assert nestctl("logs", "demo/l1", "-n", "1").stdout == "three\n"


def test_the_console_of_a_guest_inside_is_read_where_it_is() -> None:
    completed = nestctl("logs", "l2")
    assert completed.returncode == 1
    assert "/var/lib/nestctl/guests/demo/l2.console.log" in completed.stderr
