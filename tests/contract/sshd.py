"""A real sshd on loopback, with a configuration, keys and a port of its own."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nestctl.adapters.ssh import DirectRoute, Identity
from nestctl.deadline import Deadline
from nestctl.lab.keys import LabKeys, ensure_keys
from tests.needs import need_program

# Where OpenSSH's server wants an empty directory when root starts it (Debian's and Ubuntu's builds).
PRIVILEGE_SEPARATION = Path("/run/sshd")


@dataclass(frozen=True, kw_only=True)
class Server:
    directory: Path
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

    def write_home(self, home: Path, hosts: Sequence[str] = ("127.0.0.1",)) -> None:
        """Make a home whose OpenSSH client logs in to the server by these addresses without a question."""
        directory = home / ".ssh"
        directory.mkdir(mode=0o700, parents=True)
        key = directory / "id_ed25519"
        key.touch(mode=0o600)
        key.write_text(self.keys.client.private)
        known = (f"[{host}]:{self.port} {self.keys.hosts['server'].public}\n" for host in hosts)
        (directory / "known_hosts").write_text("".join(known))


@contextmanager
def start_sshd(directory: Path, *, addresses: Sequence[str] = ("127.0.0.1",), settings: str = "") -> Iterator[Server]:
    """Start sshd with files in a directory, on one port of all addresses; it is ended with the context."""
    program = need_program("sshd", "openssh-server")
    keys = ensure_keys(directory / "keys.json", ["server", "other"])
    host_key = directory / "host_key"
    host_key.touch(mode=0o600)
    host_key.write_text(keys.hosts["server"].private)
    (directory / "authorized_keys").write_text(f"{keys.client.public}\n")
    port = free_port()
    configuration = directory / "sshd_config"
    configuration.write_text(
        "".join(f"ListenAddress {address}:{port}\n" for address in addresses)
        + f"HostKey {host_key}\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {directory / 'authorized_keys'}\nPasswordAuthentication no\nMaxSessions 100\n"
        "PermitRootLogin prohibit-password\nMaxStartups 1000\nSubsystem sftp internal-sftp\n"
        # What an account has its shell do at the start is not tested here.
        f"{settings or f'SetEnv HOME={directory}'}\n"
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
        for address in addresses:
            _wait_for_port(address, port)
        yield Server(directory=directory, port=port, keys=keys)
    finally:
        process.terminate()
        process.wait()


def _wait_for_port(address: str, port: int) -> None:
    for _ in Deadline.after(30, "The start of sshd").poll(0.02):
        with suppress(ConnectionRefusedError), socket.create_connection((address, port)):
            return


def free_port() -> int:
    """Return a port that nobody listens on, now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
