"""Have systemd look for labs whose time is over: a service and its timer, for root or for one account."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from nestctl.adapters.files import write_atomically
from nestctl.errors import PrerequisiteError
from nestctl.paths import resource

UNITS = ("nestctl-expire.service", "nestctl-expire.timer")

# What decides which labs there are; a service has none of its user's environment.
_VARIABLES = ("NESTCTL_STATE", "NESTCTL_CACHE", "LIBVIRT_DEFAULT_URI", "XDG_STATE_HOME", "XDG_CACHE_HOME")


def unit_directory() -> Path:
    """Say where this account's units are (systemd.unit(5))."""
    if os.geteuid() == 0:
        return Path("/etc/systemd/system")
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user"


def enable_command() -> str:
    """Return the shell command that starts the timer, for root or for this account."""
    user = "" if os.geteuid() == 0 else " --user"
    return f"systemctl{user} daemon-reload && systemctl{user} enable --now nestctl-expire.timer"


def install_units(directory: Path, program: Path, connect: str | None) -> tuple[Path, ...]:
    """Write the units; they run `program`, with the settings of this process's environment."""
    environment = {name: value for name in _VARIABLES if (value := os.environ.get(name))}
    directory.mkdir(parents=True, exist_ok=True)
    paths = tuple(directory / name for name in UNITS)
    for path in paths:
        write_atomically(path, render_unit(path.name, program, connect, environment).encode())
    return paths


def uninstall_units(directory: Path) -> bool:
    """Remove the units; tell whether there were any."""
    there = [path for name in UNITS if (path := directory / name).exists()]
    for path in there:
        path.unlink()
    return bool(there)


def find_program() -> Path:
    """Find the nestctl that runs. Raises `PrerequisiteError` when it is none that a service could start."""
    beside = Path(sys.executable).with_name("nestctl")
    if beside.exists():
        return beside
    if found := shutil.which("nestctl"):
        return Path(found).absolute()
    raise PrerequisiteError(
        "The program 'nestctl' is not in PATH.",
        hint="Run script/setup in a checkout and use its .venv/bin/nestctl, or 'pipx install /path/to/checkout'.",
    )


def render_unit(name: str, program: Path, connect: str | None, environment: dict[str, str]) -> str:
    """Render a unit from its template."""
    words = ("expire", *(("--connect", connect) if connect else ()))
    # In a command's arguments '$' begins a variable, not in its path (systemd.service(5)), nor in Environment=
    # (systemd.exec(5)).
    command = " ".join((_quote(str(program)), *(_quote(word).replace("$", "$$") for word in words)))
    lines = "".join(f"Environment={_quote(f'{key}={value}')}\n" for key, value in environment.items())
    text = resource("templates", f"systemd/{name}").read_text()
    return text.replace("@COMMAND@", command).replace("@ENVIRONMENT@", lines)


def _quote(word: str) -> str:
    """Quote a word for a unit file: systemd reads '%', quotes and backslashes everywhere (systemd.syntax(7))."""
    for character, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%")):
        word = word.replace(character, written)
    return f'"{word}"'
