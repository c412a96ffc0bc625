"""Whoever listens goes away, a terminal or a pipe's reader: what is to be put back is put back all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nested.harness import wait_until

# A command that has something to put back, and shows what it does.
_COMMAND = """
import sys, time
from pathlib import Path
from nestctl import __main__, cli, console

def work(**_):
    try:
        with console.step("Waiting"):
            Path(sys.argv[1]).touch()
            time.sleep(60)
    finally:
        with console.step("Putting it back"):
            time.sleep(0.5)
        Path(sys.argv[2]).touch()

cli.app = work
__main__.main()
"""
_WITH_HANG_UP = ("env", "--default-signal=HUP", "setsid", "--ctty")


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_it_as_ctrl_c_does(tmp_path: Path) -> None:
    begun, put_back = tmp_path / "begun", tmp_path / "put back"
    terminal, end = os.openpty()
    with subprocess.Popen(
        (*_WITH_HANG_UP, sys.executable, "-c", _COMMAND, begun, put_back), stdin=end, stdout=end, stderr=end
    ) as process:
        os.close(end)
        wait_until(begun.exists, timeout_s=30)
        os.close(terminal)
        assert process.wait(timeout=50) != 0
    assert put_back.exists()


@pytest.mark.slow
def test_messages_that_nobody_reads_keep_nothing_from_being_put_back(tmp_path: Path) -> None:
    begun, put_back = tmp_path / "begun", tmp_path / "put back"
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen((sys.executable, "-c", _COMMAND, begun, put_back), stderr=writing) as process:
        os.close(writing)
        wait_until(begun.exists, timeout_s=30)
        process.terminate()
        assert process.wait(timeout=50) != 0
    assert put_back.exists()
