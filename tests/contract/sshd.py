"""A real sshd on loopback, with a configuration, keys and a port of its own."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nestctl.adapters.ssh import DirectRoute, Identity
from nestctl.lab.keys import LabKeys, ensure_keys
from tests.needs import need_program

# Where OpenSSH's server wants an empty directory when root starts it (Debian's and Ubuntu's builds).
PRIVILEGE_SEPARATION = Path("/run/sshd")


@dataclass(frozen=True, kw_only=True)
class Server:
    port: int
    keys: LabKeys

    @property
    def route(self) -> DirectRoute:
        return DirectRoute(host="127.0.0.1", port=self.port)

    @property
    def identity(self) -> Identity:
        return Identity(
            user=getpass.getuser(),
            client_key=self.keys.client.private,
            host_key=self.keys.hosts["server"].public,
        )


@contextmanager
def start_sshd(directory: Path) -> Iterator[Server]:
    """Start sshd with files in a directory; it is ended with the context."""
    program = need_program("sshd", "openssh-server")
    keys = ensure_keys(directory / "keys.json", ["server", "other"])
    host_key = directory / "host_key"
    host_key.touch(mode=0o600)
    host_key.write_text(keys.hosts["server"].private)
    (directory / "authorized_keys").write_text(f"{keys.client.public}\n")
    port = free_port()
    configuration = directory / "sshd_config"
    configuration.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {host_key}\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {directory / 'authorized_keys'}\nPasswordAuthentication no\nMaxSessions 100\n"
        "PermitRootLogin prohibit-password\nMaxStartups 100\n"
        # What an account has its shell do at the start is not tested here.
        f"SetEnv HOME={directory}\n"
    )
    if os.geteuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    command = [program, "-f", str(configuration)]
    subprocess.run([*command, "-t"], check=True)
    # Since OpenSSH 9.8 clients that fail are kept waiting, and here all clients have one address.
    without_penalties = ["-o", "PerSourcePenalties=no"]
    if subprocess.run([*command, "-t", *without_penalties], check=False, capture_output=True).returncode == 0:
        command += without_penalties
    process = subprocess.Popen([*command, "-D", "-E", str(directory / "log")], stdin=subprocess.DEVNULL)
    try:
        yield Server(port=port, keys=keys)
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """Return a port that nobody listens on, now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
