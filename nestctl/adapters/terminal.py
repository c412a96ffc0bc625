"""Join this process's terminal to another one, such as a guest's serial console."""

from __future__ import annotations

import errno
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Ctrl-], as in telnet(1) and virsh(1).
ESCAPE = b"\x1d"

_CHUNK_BYTES = 4096


def join_terminal(path: Path) -> None:
    """Send what is typed to a terminal and show what it writes, until Ctrl-], the end of the input, or its own end.

    Raises `OSError` when it cannot be opened. Our own terminal is as it was afterwards.
    """
    other = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        with _every_key(sys.stdin.fileno()) as keys:
            _join(keys, sys.stdout.fileno(), other)
    finally:
        os.close(other)


def _join(keys: int, screen: int, other: int) -> None:
    while True:
        readable, _, _ = select.select((keys, other), (), ())
        if other in readable:
            if not (written := _read(other)):
                return
            _write(screen, written)
        if keys in readable:
            typed, escape, _ = os.read(keys, _CHUNK_BYTES).partition(ESCAPE)
            _write(other, typed)
            if escape or not typed:
                return


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, _CHUNK_BYTES)
    except OSError as error:
        if error.errno != errno.EIO:  # its other end was closed: the guest has stopped
            raise
        return b""


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


@contextmanager
def _every_key(descriptor: int) -> Iterator[int]:
    """Have every key at once and as it is, Ctrl-C too, where a person types; leave a pipe as it is."""
    if not os.isatty(descriptor):
        yield descriptor
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


if __name__ == "__main__":
    join_terminal(Path(sys.argv[1]))
