"""Run nestctl as a user does: as a program, in a directory of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nestctl.image.recipe import read_recipe
from nestctl.image.store import Image, find_image

# A shell starts what runs in its background with SIGINT ignored, and children inherit that: tests send it.
_WITH_SIGINT = ("env", "--default-signal=INT")

NESTCTL = str(Path(sys.executable).with_name("nestctl"))


@dataclass(frozen=True, kw_only=True)
class Completed:
    command: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str

    def expect(self, exit_code: int) -> Completed:
        assert self.exit_code == exit_code, (
            f"{' '.join(self.command)} gave {self.exit_code}, not {exit_code}\n{self.stdout}\n{self.stderr}"
        )
        # A sentence for the user, never a traceback.
        assert "Traceback" not in self.stderr, self.stderr
        return self

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def run(
    *command: str,
    timeout_s: float = 300,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Completed:
    completed = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return Completed(command=command, exit_code=completed.returncode, stdout=completed.stdout, stderr=completed.stderr)


def build_image() -> Image:
    """Build the image that is made from this machine's package sources, in the real cache, as a user does."""
    run(NESTCTL, "image", "build", timeout_s=1800).expect(0)
    return find_image(read_recipe().name)


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A directory with a lab file, and a place of its own for what nestctl keeps; `prefix` is run before nestctl."""

    directory: Path
    name: str = "demo"
    environment: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()

    @property
    def state(self) -> Path:
        return self.directory / "s"

    @property
    def kept(self) -> Path:
        return self.state / "labs" / self.name

    @property
    def ssh_config(self) -> Path:
        return self.kept / "ssh_config"

    def write(self, text: str) -> None:
        (self.directory / "lab.yaml").write_text(text)

    def nestctl(self, *arguments: str, timeout_s: float = 900) -> Completed:
        return run(
            *self.prefix, NESTCTL, *arguments, timeout_s=timeout_s, cwd=self.directory, environment=self._environment()
        )

    @contextmanager
    def removed_in_the_end(self) -> Iterator[Lab]:
        """Whatever has been done to it, `down` with its file removes all of it, and nothing stays."""
        try:
            yield self
        finally:
            self.nestctl("down", timeout_s=600).expect(0)
            self.expect_nothing_left()

    @contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start nestctl and leave it running; it is killed in the end."""
        process = subprocess.Popen(
            (*_WITH_SIGINT, *self.prefix, NESTCTL, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            env={**os.environ, **self._environment()},
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)

    def processes(self) -> list[str]:
        """The QEMU processes of this lab's guests, by their command lines."""
        return [line for line in qemu_processes() if f"guest={self.name}-" in line and str(self.state) in line]

    def expect_nothing_left(self) -> None:
        assert self.processes() == []
        assert not self.state.exists(), sorted(self.state.rglob("*"))

    def _environment(self) -> Mapping[str, str]:
        return {"NESTCTL_STATE": str(self.state), **self.environment}


def give_one_cpu(path: Path) -> None:
    """One CPU for each guest: an emulated one of several may stand still (docs/how-to/when-something-fails.md)."""
    path.write_text(path.read_text().replace("cpus: 2", "cpus: 1"))


def qemu_processes() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words and b"qemu-system" in words[0]:
            yield b" ".join(words).decode(errors="replace")


def wait_until(condition: Any, *, timeout_s: float = 120) -> None:
    """Poll tightly until something is so."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.02)
