"""A terminal is joined to a real pseudo-terminal, at whose other end the test stands as QEMU does."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import suppress

import pytest


@pytest.fixture
def guest() -> Iterator[tuple[int, str]]:
    """The end of a guest, and the path of the other one."""
    controller, terminal = pty.openpty()
    tty.setraw(terminal)
    path = os.ttyname(terminal)
    try:
        yield controller, path
    finally:
        for descriptor in (controller, terminal):
            with suppress(OSError):
                os.close(descriptor)


def start(path: str, *, stdin: int, stdout: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nestctl.adapters.terminal", path]
    return subprocess.Popen(command, stdin=stdin, stdout=stdout)


def read_until(descriptor: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        seen += os.read(descriptor, 4096)
    return seen


def test_what_is_typed_goes_there_and_what_is_written_comes_back(guest: tuple[int, str]) -> None:
    controller, path = guest
    with start(path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"root\r")
        process.stdin.flush()
        assert read_until(controller, b"root\r") == b"root\r"
        os.write(controller, b"Password:")
        assert process.stdout.read(9) == b"Password:"
        process.stdin.write(b"x\x1dnot sent")
        process.stdin.flush()
        assert process.wait(timeout=30) == 0
    assert read_until(controller, b"x") == b"x"


def test_the_end_of_the_input_is_the_end(guest: tuple[int, str]) -> None:
    with start(guest[1], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        assert process.wait(timeout=30) == 0


def test_a_terminal_gives_every_key_and_is_as_it_was_afterwards(guest: tuple[int, str]) -> None:
    controller, path = guest
    keys, ours = pty.openpty()
    before = termios.tcgetattr(ours)
    with start(path, stdin=ours, stdout=ours) as process:
        os.write(controller, b"login: ")
        read_until(keys, b"login: ")
        assert not termios.tcgetattr(ours)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
        os.write(keys, b"\x03\x04")  # Ctrl-C and Ctrl-D are for the guest
        assert read_until(controller, b"\x04") == b"\x03\x04"
        os.write(keys, b"\x1d")
        assert process.wait(timeout=30) == 0
    assert termios.tcgetattr(ours) == before
    for descriptor in (keys, ours):
        os.close(descriptor)


def test_a_guest_that_stops_ends_it(guest: tuple[int, str]) -> None:
    controller, path = guest
    with start(path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        os.write(controller, b".")
        assert process.stdout
        assert process.stdout.read(1) == b"."
        os.close(controller)
        assert process.wait(timeout=30) == 0
