"""What holds for a command, wherever it runs: here, over SSH, and over SSH through SSH."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nestctl.adapters.shell import Shell, TalkingShell
from nestctl.deadline import Deadline
from nestctl.errors import CommandError, DeadlineError, ExitCode, PrerequisiteError

MEBIBYTE = 1 << 20


def soon() -> Deadline:
    return Deadline.after(30, "Running a command")


def test_what_is_printed_comes_back(shell: Shell) -> None:
    completed = shell.run(("echo", "hello"), deadline=soon())
    assert (completed.exit_code, completed.stdout, completed.stderr) == (0, b"hello\n", b"")
    assert completed.text == "hello"
    assert completed.command == ("echo", "hello")


def test_words_arrive_as_they_are(shell: Shell) -> None:
    words = ["a b", "$HOME", "'", '"', "*", "", "\\", "a\nb", "-n", "`id`", "é", "#", "~", "A=B"]
    completed = shell.run(("printf", "%s\\0", *words), deadline=soon())
    assert completed.stdout.decode().split("\0") == [*words, ""]


def test_a_failure_is_a_result(shell: Shell) -> None:
    for code in (1, 126, 127, 255):
        assert shell.run(("sh", "-c", f"exit {code}"), deadline=soon()).exit_code == code


def test_a_failure_that_is_not_expected_is_an_error_with_the_last_lines(shell: Shell) -> None:
    script = "for n in 1 2 3 4 5 6 7 8 9; do echo line $n >&2; done; exit 3"
    with pytest.raises(CommandError) as raised:
        shell.run(("sh", "-c", script), deadline=soon()).expect_success()
    assert "ended with exit code 3" in raised.value.message
    assert "line 9" in raised.value.message
    assert "line 2" not in raised.value.message
    assert raised.value.exit_code == ExitCode.FAILED


def test_a_signal_is_a_negative_exit_code(shell: Shell) -> None:
    assert shell.run(("sh", "-c", "kill -9 $$"), deadline=soon()).exit_code < 0


def test_a_missing_program_is_a_prerequisite(shell: Shell) -> None:
    with pytest.raises(PrerequisiteError, match="The program 'nestctl-no-such' is not installed") as raised:
        shell.run(("nestctl-no-such", "--now"), deadline=soon())
    assert raised.value.exit_code == ExitCode.NOT_FOUND_OUT


def test_a_program_that_is_missing_inside_a_script_is_the_scripts_result(shell: Shell) -> None:
    completed = shell.run(("sh", "-c", "nestctl-no-such"), deadline=soon())
    assert completed.exit_code == 127
    assert b"nestctl-no-such" in completed.stderr


def test_both_streams_are_drained_together(shell: Shell) -> None:
    """Reading one to its end first would stall once the other's window or pipe is full."""
    script = "head -c 1048576 /dev/zero >&2; head -c 1048576 /dev/zero; head -c 1048576 /dev/zero >&2"
    completed = shell.run(("sh", "-c", script), deadline=soon())
    assert (len(completed.stdout), len(completed.stderr)) == (MEBIBYTE, 2 * MEBIBYTE)


def test_standard_input_arrives_whole_and_ends(shell: Shell) -> None:
    content = bytes(range(256)) * 4096
    completed = shell.run(("sha256sum",), deadline=soon(), stdin=content)
    assert completed.text.split()[0] == hashlib.sha256(content).hexdigest()


def test_binary_output_comes_back_as_it_is(shell: Shell) -> None:
    content = bytes(range(256)) * 16
    assert shell.run(("cat",), deadline=soon(), stdin=content).stdout == content
    assert "\ufffd" in shell.run(("cat",), deadline=soon(), stdin=b"\xff").text


def test_without_input_there_is_none(shell: Shell) -> None:
    assert shell.run(("cat",), deadline=soon()).stdout == b""


def test_a_command_that_does_not_read_its_input_is_fine(shell: Shell) -> None:
    assert shell.run(("true",), deadline=soon(), stdin=bytes(4 * MEBIBYTE)).exit_code == 0


def test_a_deadline_ends_the_command(shell: Shell, tmp_path: Path) -> None:
    """The lock is free once the command, and all it started, is gone."""
    lock = tmp_path / "lock"
    with pytest.raises(DeadlineError) as raised:
        shell.run(
            ("sh", "-c", 'flock "$1" sh -c "echo locked; sleep 300"; true', "sh", str(lock)),
            deadline=Deadline.after(0.5, "Sleeping"),
        )
    assert raised.value.exit_code == ExitCode.DEADLINE
    assert lock.exists()
    assert shell.run(("flock", "-w", "20", str(lock), "true"), deadline=soon()).exit_code == 0


def test_an_interruption_ends_the_command(shell: Shell, tmp_path: Path) -> None:
    lock, stop = tmp_path / "lock", threading.Event()
    threading.Timer(1, stop.set).start()
    with pytest.raises(KeyboardInterrupt):
        shell.run(
            ("sh", "-c", 'flock "$1" sh -c "echo locked; sleep 300"; true', "sh", str(lock)),
            deadline=Deadline.after(60, "Sleeping", stop=stop),
        )
    assert lock.exists()
    assert shell.run(("flock", "-w", "20", str(lock), "true"), deadline=soon()).exit_code == 0


def test_a_deadline_that_is_over_is_said_at_once(shell: Shell) -> None:
    with pytest.raises(DeadlineError):
        shell.run(("sleep", "300"), deadline=Deadline.after(0, "Sleeping"))
    assert shell.run(("echo", "still here"), deadline=soon()).text == "still here"


def test_a_command_that_has_closed_its_streams_is_waited_for(shell: Shell) -> None:
    completed = shell.run(("sh", "-c", "exec >&- 2>&-; sleep 0.2; exit 7"), deadline=soon())
    assert completed.exit_code == 7
    with pytest.raises(DeadlineError):
        shell.run(("sh", "-c", "exec >&- 2>&-; sleep 300"), deadline=Deadline.after(0.5, "Sleeping"))


def test_many_commands_run_at_once(shell: Shell) -> None:
    with ThreadPoolExecutor(max_workers=12) as pool:
        waiting = [
            pool.submit(shell.run, ("sh", "-c", f"echo {n}; echo e{n} >&2; exit {n}"), deadline=soon())
            for n in range(24)
        ]
        completed = [future.result() for future in waiting]
    assert [(it.exit_code, it.stdout, it.stderr) for it in completed] == [
        (n, f"{n}\n".encode(), f"e{n}\n".encode()) for n in range(24)
    ]


def test_a_place_has_a_name(shell: Shell) -> None:
    assert shell.where.strip("'") in {"this machine", "server", "inner"}


_ECHO = "import sys\nfor line in sys.stdin: print(line.strip() * 3, flush=True)"


def is_running(word: str) -> bool:
    return any(word.encode() in path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())


def wait_until_gone(word: str) -> None:
    for _ in Deadline.after(10, f"The end of '{word}'").poll(0.05):
        if not is_running(word):
            return


def test_a_program_that_stays_is_asked_again_and_again_and_ends(shell: TalkingShell) -> None:
    with shell.converse(("python3", "-c", _ECHO, "nestctl-stays")) as conversation:
        assert conversation.ask(b"ab\n", deadline=soon()) == b"ababab\n"
        long = b"x" * MEBIBYTE
        assert conversation.ask(long + b"\n", deadline=soon()) == 3 * long + b"\n"
        assert is_running("nestctl-stays")
    wait_until_gone("nestctl-stays")


def test_a_program_that_ends_instead_of_answering_says_why(shell: TalkingShell) -> None:
    with shell.converse(("sh", "-c", "read line; echo 'no more' >&2; exit 3")) as conversation:
        assert conversation.ask(b"\n", deadline=soon()) == b""
        completed = conversation.end(deadline=soon())
    assert (completed.exit_code, completed.stderr) == (3, b"no more\n")


def test_a_program_that_owes_an_answer_is_ended(shell: TalkingShell) -> None:
    with shell.converse(("python3", "-c", "import time; time.sleep(60)", "nestctl-owes")) as conversation:
        with pytest.raises(DeadlineError):
            conversation.ask(b"\n", deadline=Deadline.after(0.3, "An answer"))
        assert is_running("nestctl-owes")
    wait_until_gone("nestctl-owes")


def test_a_program_that_is_asked_when_we_are_interrupted_is_ended(shell: TalkingShell) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    command = ("python3", "-c", "import time; time.sleep(60)", "nestctl-asked")
    with pytest.raises(KeyboardInterrupt), shell.converse(command) as conversation:
        conversation.ask(b"\n", deadline=Deadline.after(5, "An answer", stop=stop))
    wait_until_gone("nestctl-asked")
