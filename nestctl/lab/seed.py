"""What makes a guest the one it is: a tar archive that is unpacked over its root before its systemd starts."""

from __future__ import annotations

import io
import tarfile

from nestctl.lab.keys import KeyPair, LabKeys
from nestctl.lab.plan import GuestPlan


def render_seed(plan: GuestPlan, keys: LabKeys) -> bytes:
    """Render a guest's seed: name, addresses, host key and who may log in. The same plan and keys give the same bytes.

    It holds the guest's private host key: whoever writes it gives it mode 0600.
    """
    host = keys.hosts[plan.name]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        directory = tarfile.TarInfo("root/.ssh")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(directory)
        for path, content, mode in (
            ("etc/hostname", f"{plan.name}\n", 0o644),
            ("etc/hosts", _render_hosts(plan), 0o644),
            ("etc/resolv.conf", f"nameserver {plan.uplink.dns}\n", 0o644),
            ("etc/systemd/network/10-nestctl.network", _render_network(plan), 0o644),
            *_host_key_files(host),
            ("root/.ssh/authorized_keys", f"{keys.client.public} nestctl\n", 0o600),
        ):
            _add(archive, path, content.encode(), mode)
    return buffer.getvalue()


def _host_key_files(host: KeyPair) -> tuple[tuple[str, str, int], ...]:
    return (
        ("etc/ssh/ssh_host_ed25519_key", host.private, 0o600),
        ("etc/ssh/ssh_host_ed25519_key.pub", f"{host.public}\n", 0o644),
    )


def _render_hosts(plan: GuestPlan) -> str:
    lines = ["127.0.0.1 localhost", f"127.0.1.1 {plan.name}.{plan.lab} {plan.name}"]
    lines += [f"{inner.uplink.address} {inner.name}.{inner.lab} {inner.name}" for inner in plan.guests]
    return "\n".join(lines) + "\n"


def _render_network(plan: GuestPlan) -> str:
    prefix = plan.uplink.subnet.partition("/")[2]
    return (
        f"[Match]\nMACAddress={plan.uplink.mac}\n\n"
        f"[Network]\nAddress={plan.uplink.address}/{prefix}\nGateway={plan.uplink.gateway}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    )


def _add(archive: tarfile.TarFile, path: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
