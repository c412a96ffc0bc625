"""A student's key on a real sshd: what the line in authorized_keys lets it do, and what not."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nestctl.lab.bundle import JUMP_NAME, Jump, parse_jump, render_authorized_key, render_server_settings, write_bundles
from nestctl.lab.keys import ensure_lab_keys
from nestctl.lab.plan import GuestPlan
from tests.builders import class_of, plans_of
from tests.contract.sshd import free_port, start_sshd
from tests.nested.harness import wait_until

pytestmark = pytest.mark.slow


def _at(plan: GuestPlan, port: int) -> GuestPlan:
    return replace(plan, uplink=replace(plan.uplink, port=port))


@pytest.fixture
def ssh(tmp_path: Path) -> object:
    """Two students' machines and this machine's sshd, all of them servers on loopback; run ssh as a student."""
    lab = class_of("ann", "bob")
    keys = ensure_lab_keys(tmp_path / "keys.json", lab)
    jump = Jump(account=getpass.getuser(), host="127.0.0.1", port=0, host_keys="")
    for name in ("host", "ann", "bob"):
        (tmp_path / name).mkdir()
    with (
        start_sshd(tmp_path / "host", settings=render_server_settings(jump)) as host,
        start_sshd(tmp_path / "ann") as ann,
        start_sshd(tmp_path / "bob") as bob,
    ):
        servers = {"ann": ann, "bob": bob}
        plans = tuple(_at(plan, servers[plan.name].port) for plan in plans_of(lab))
        hosts = {**keys.hosts, **{name: server.keys.hosts["server"] for name, server in servers.items()}}
        keys = replace(keys, hosts=hosts)
        for name in servers:
            lines = "".join(f"{it.public}\n" for it in keys.clients_of(name))
            (tmp_path / name / "authorized_keys").write_text(lines)
        lines = "".join(render_authorized_key(plan, keys) for plan in plans)
        (tmp_path / "host" / "authorized_keys").write_text(lines)
        (tmp_path / "ssh_host_ed25519_key.pub").write_text(host.keys.hosts["server"].public + "\n")
        jump = parse_jump(f"{jump.account}@127.0.0.1:{host.port}", tmp_path)
        write_bundles(lab, plans, keys, tmp_path / "out", jump)
        for configuration in (tmp_path / "out").glob("*/ssh_config"):
            # The servers are this account's, not root's.
            configuration.write_text(configuration.read_text().replace("User root", f"User {getpass.getuser()}"))

        def run(student: str, *words: str) -> subprocess.CompletedProcess[str]:
            command = ("ssh", "-F", "ssh_config", "-o", "BatchMode=yes", *words)
            return subprocess.run(
                command,
                cwd=tmp_path / "out" / student,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        yield run


def test_a_student_gets_to_that_students_machine_and_to_no_other(ssh, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert ssh("ann", "ann", "echo", "in").stdout == "in\n"
    assert ssh("bob", "bob", "echo", "in").stdout == "in\n"
    # With everything about bob's machine but bob's key.
    bob = (tmp_path / "out/bob/ssh_config").read_text()
    (tmp_path / "out/ann/ssh_config").write_text(bob)
    shutil.copy(tmp_path / "out/bob/known_hosts", tmp_path / "out/ann/known_hosts")
    refused = ssh("ann", "bob", "echo", "in")
    assert refused.returncode == 255
    assert refused.stdout == ""
    assert "administratively prohibited" in refused.stderr


def test_a_student_has_no_shell_and_no_other_way_on_the_host(ssh, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shell = ssh("ann", JUMP_NAME, "echo", "in")
    assert shell.returncode != 0
    assert shell.stdout == ""
    for target in ("127.0.0.1:22", "127.0.0.1:1", "127.0.0.2:80"):
        forwarded = ssh("ann", "-W", target, JUMP_NAME)
        assert forwarded.returncode == 255
        assert "administratively prohibited" in forwarded.stderr
    for server in ("127.0.0.1:0", "0.0.0.0:0", str(tmp_path / "listening")):
        listening = ssh("ann", "-o", "ExitOnForwardFailure=yes", "-N", "-R", f"{server}:127.0.0.1:22", JUMP_NAME)
        assert listening.returncode == 255
        assert "remote port forwarding failed" in listening.stderr


def test_a_student_connects_to_no_socket_of_the_host(ssh, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    command = ("ssh", "-F", "ssh_config", "-N", "-L", f"127.0.0.1:{port}:{tmp_path / 'private'}", JUMP_NAME)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "private"))
        listener.listen()
        listener.settimeout(0)
        with subprocess.Popen(command, cwd=tmp_path / "out/ann", stdin=subprocess.DEVNULL) as forwarding:
            try:
                wait_until(lambda: _is_listening(port))
                with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                    assert connection.recv(1) == b""
            finally:
                forwarding.kill()
        with pytest.raises(BlockingIOError):
            listener.accept()


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
