"""Run nestctl as a user does: a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def nestctl(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it printed; it gets no input, and no terminal."""
    command = [sys.executable, "-m", "nestctl", *words]
    return subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def python(source: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a line of Python in a process that has imported nothing."""
    command = [sys.executable, "-c", source, *words]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
