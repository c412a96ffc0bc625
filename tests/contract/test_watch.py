"""`nestctl watch` as a program: without a terminal it prints lines, and Ctrl-C ends it without a word."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import need_program

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_what_is_there_is_told_and_an_interruption_ends_it(
    how: tuple[str, ...], own_directory: Path, tmp_path: Path
) -> None:
    need_program("qemu-system-x86_64", "qemu-system-x86")
    (tmp_path / "lab.yaml").write_text("name: demo\nguests: {l1: {}}\n")
    uri = f"qemu:///embed?root={own_directory}/state/embed"
    words = ("watch", "--connect", uri, *how, "lab.yaml")
    command = ("env", "--default-signal=INT", sys.executable, "-m", "nestctl", *words)
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=60)
    assert (process.returncode, rest, said) == (0, "", "")
    if how:
        assert (json.loads(line)["name"], json.loads(line)["state"]) == ("l1", "absent")
    else:
        assert line.split()[1:] == ["demo/l1", "L1", "absent"]
