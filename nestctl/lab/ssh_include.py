"""Have `ssh l2.l1.LAB` work as it is: one line in the user's own OpenSSH configuration that includes every lab's."""

from __future__ import annotations

from pathlib import Path

from nestctl.adapters.files import write_atomically
from nestctl.errors import PrerequisiteError, UsageError
from nestctl.lab.ssh_config import INCLUDED
from nestctl.paths import state_directory

MARK = "# nestctl: the guests of every lab"


def user_configuration() -> Path:
    """Return the file that the user's OpenSSH reads (ssh_config(5)); it need not be there."""
    return Path.home() / ".ssh" / "config"


def include_line() -> str:
    """Return the line: a pattern, so that it holds for labs to come, and for none when there are none."""
    return f'Include "{state_directory() / "labs" / "*" / INCLUDED}"'


def install(path: Path) -> bool:
    """Have the line in a configuration, before any Host or Match that it would else belong to; tell if it was not."""
    text = _read(path)
    wanted = add_include(text, include_line())
    if wanted == text:
        return False
    _write(path, wanted)
    return True


def uninstall(path: Path) -> bool:
    """Take the line out again and leave the rest as it is; tell whether it was there."""
    text = _read(path)
    wanted = remove_include(text)
    if wanted == text:
        return False
    _write(path, wanted)
    return True


def add_include(text: str, line: str) -> str:
    """Put the line at the beginning, in place of one that was there."""
    return f"{MARK}\n{line}\n" + remove_include(text)


def remove_include(text: str) -> str:
    """Remove our mark and the line that follows it, wherever they are."""
    lines = text.splitlines(keepends=True)
    ours = {index + offset for index, line in enumerate(lines) if line.strip() == MARK for offset in (0, 1)}
    return "".join(line for index, line in enumerate(lines) if index not in ours)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except UnicodeDecodeError as error:
        raise UsageError(f"'{path}' is no text: {error.reason}.") from error


def _write(path: Path, text: str) -> None:
    # A link, as those who keep such files elsewhere have, stays one; a mode stays what it was.
    target = path.resolve()
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(target, text.encode(), mode=mode)
    except OSError as error:
        raise PrerequisiteError(f"'{path}' cannot be written: {error.strerror}.") from error
