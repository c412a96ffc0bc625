"""Read how the user's own OpenSSH would reach a machine: ssh_config(5), as far as paramiko understands it.

`Include` is added here, because paramiko leaves it out. A file that the user did not name may be missing.
"""

from __future__ import annotations

import getpass
import glob
import io
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestctl.errors import UsageError

_SYSTEM_FILE = Path("/etc/ssh/ssh_config")
_SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"

# How deep files may include each other (OpenSSH's READCONF_MAX_DEPTH).
_LONGEST_INCLUSION = 16


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A machine as the user names it; `host` may be an alias of the configuration. Empty and 0: what that says.

    `file` takes the place of the user's and the system's configuration (ssh -F); `settings` are lines that go before
    it (ssh -o).
    """

    host: str
    user: str = ""
    port: int = 0
    file: Path | None = None
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SshOptions:
    """What the configuration says of one machine."""

    host: str
    port: int
    user: str
    known_as: str
    identity_files: tuple[str, ...]
    identities_only: bool
    uses_agent: bool
    known_hosts_files: tuple[Path, ...]
    jumps: tuple[Destination, ...]
    proxy_command: str


def read_options(destination: Destination) -> SshOptions:
    """Look a machine up. Raises `UsageError` when the configuration cannot be read."""
    found = _look_up(destination)
    host = found.get("hostname", destination.host)
    return SshOptions(
        host=host,
        port=destination.port or _parse_port(found.get("port", "22")),
        user=destination.user or found.get("user") or getpass.getuser(),
        known_as=found.get("hostkeyalias", ""),
        identity_files=tuple(found.get("identityfile", ())),
        identities_only=found.get("identitiesonly", "no").lower() == "yes",
        uses_agent=found.get("identityagent", "").lower() != "none",
        known_hosts_files=_known_hosts(found),
        jumps=_parse_jumps(found.get("proxyjump", ""), destination),
        proxy_command=found.get("proxycommand") or "",
    )


def parse_jump(text: str, like: Destination) -> Destination:
    """Read one hop of ProxyJump, '[user@]host[:port]' or an ssh:// URI, looked up in the same configuration."""
    address = text.strip().removeprefix("ssh://").rstrip("/")
    user, _, place = address.rpartition("@")
    host, _, port = place.rpartition(":") if not place.endswith("]") and place.count(":") != 0 else (place, "", "")
    return Destination(
        host=host.strip("[]"), user=user, port=_parse_port(port) if port else 0, file=like.file, settings=()
    )


def _parse_jumps(text: str, like: Destination) -> tuple[Destination, ...]:
    if not text or text.lower() == "none":
        return ()
    return tuple(parse_jump(part, like) for part in text.split(","))


def _parse_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise UsageError(f"The SSH configuration names '{text}' as a port; it is a number from 1 to 65535.")
    return int(text)


def _known_hosts(found: Mapping[str, Any]) -> tuple[Path, ...]:
    own = found.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
    names = shlex.split(own) + shlex.split(found.get("globalknownhostsfile", _SYSTEM_KNOWN_HOSTS))
    return tuple(Path(name).expanduser() for name in names if name.lower() != "none")


def _look_up(destination: Destination) -> Mapping[str, Any]:
    import paramiko  # a lab knows these types without anybody being looked up

    lines = [f"    {line}" for line in destination.settings]
    if destination.user:
        lines.append(f"    User {destination.user}")  # for the tokens %r and %u
    text = "\n".join(["Host *", *lines, *_read_files(destination)])
    config = paramiko.SSHConfig()
    try:
        config.parse(io.StringIO(text))
        return dict(config.lookup(destination.host))
    except (paramiko.SSHException, ValueError, ImportError) as error:
        raise UsageError(
            f"The SSH configuration for '{destination.host}' cannot be read: {error}.",
            hint=f"See what OpenSSH makes of it: ssh -G {destination.host}",
        ) from error


def _read_files(destination: Destination) -> Iterator[str]:
    if destination.file:
        if not destination.file.is_file():
            raise UsageError(f"There is no SSH configuration '{destination.file}'.")
        yield from _read_file(destination.file, destination.file.parent, 0)
        return
    own = Path("~/.ssh/config").expanduser()
    for file, directory in ((own, own.parent), (_SYSTEM_FILE, _SYSTEM_FILE.parent)):
        if file.is_file():
            yield from _read_file(file, directory, 0)


def _read_file(file: Path, directory: Path, depth: int) -> Iterator[str]:
    """Yield a file's lines with those of the files it includes; the block around an Include goes on after it."""
    if depth > _LONGEST_INCLUSION:
        raise UsageError(f"The SSH configuration '{file}' is included by itself.")
    block = "Host *"
    yield block
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UsageError(f"The SSH configuration '{file}' cannot be read: {error.strerror}.") from error
    for line in lines:
        keyword, _, value = line.strip().replace("=", " ", 1).partition(" ")
        if keyword.lower() in ("host", "match"):
            block = line
        if keyword.lower() != "include":
            yield line
            continue
        for pattern in shlex.split(value):
            for name in sorted(glob.glob(str(directory / Path(pattern).expanduser()))):  # noqa: PTH207 - also absolute ones
                yield from _read_file(Path(name), directory, depth + 1)
        yield block
