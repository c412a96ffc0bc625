"""What makes a guest the one it is: a tar archive that is unpacked over its root before its systemd starts."""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Iterator

from nestctl.lab.addresses import OUTER_SUBNETS
from nestctl.lab.keys import KeyPair, LabKeys
from nestctl.lab.network_plan import NetworkPlan
from nestctl.lab.plan import GuestPlan
from nestctl.lab.qemu_answers import GUEST_FILE
from nestctl.lab.render import render_network
from nestctl.model.seed import Seed

FIRST_BOOT = "var/lib/nestctl/first-boot.sh"

# Where a guest's first boot leaves what went wrong, and all that was printed.
FAILURE_FILE = "/var/lib/nestctl/first-boot.failed"
LOG_FILE = "/var/log/nestctl-first-boot.log"

# Where libvirt has the definitions of its networks, and links to those it starts by itself.
_NETWORKS = "etc/libvirt/qemu/networks"

_UNITS = "etc/systemd/system"

_UNIT = f"""\
[Unit]
Description=Do what the lab file's seed says, once
ConditionPathExists=!/var/lib/nestctl/first-boot.begun
After=systemd-networkd-wait-online.service
Before=nestctl-ready.service

[Service]
Type=oneshot
ExecStart=/bin/sh /{FIRST_BOOT}

[Install]
WantedBy=multi-user.target
"""

# An account without a password has '*': with useradd's '!' it is locked, and sshd without PAM lets no key in (sshd(8)).
_PRELUDE = f"""\
# Written by nestctl. What fails ends it, and is what 'nestctl up' then says.
: > /var/lib/nestctl/first-boot.begun
exec > {LOG_FILE} 2>&1
run() {{
    echo "+ $1"
    bash -c "$1" && return
    {{ echo "'$1' ended with exit code $?:"; tail -n 5 {LOG_FILE} | grep -v '^+ '; }} > {FAILURE_FILE}
    exit 1
}}
expect_package() {{
    dpkg-query -W -f '${{Status}}' "${{1%%=*}}" 2>/dev/null | grep -q ' installed$' && return
    rpm -q --quiet --whatprovides "$1" 2>/dev/null && return
    {{ echo "The package '$1' could not be installed:"; tail -n 5 /var/log/cloud-init-output.log; }} > {FAILURE_FILE}
    exit 1
}}
add_user() {{
    getent passwd "$1" || run "useradd --create-home --shell /bin/bash --password '*' $1"
    home=$(getent passwd "$1" | cut -d: -f6)
    mkdir -p "$home/.ssh" && printf %s "$2" > "$home/.ssh/authorized_keys"
    chmod 700 "$home/.ssh" && chmod 600 "$home/.ssh/authorized_keys" && chown -R "$1": "$home/.ssh"
}}
"""


def render_seed(plan: GuestPlan, keys: LabKeys, qemu_answers: bytes = b"") -> bytes:
    """Render a guest's seed: name, addresses, host key and who may log in. The same plan and keys give the same bytes.

    `qemu_answers` are what its libvirt need not ask of QEMU (see `nestctl.lab.qemu_answers`). Where guests are made
    inside, libvirt starts with the guest; elsewhere when it is called, and others that boot meanwhile have the CPUs.

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
            ("etc/hosts", render_hosts(plan), 0o644),
            ("etc/resolv.conf", f"nameserver {plan.uplink.dns}\n" if plan.uplink.dns else "", 0o644),
            ("etc/systemd/network/10-nestctl.network", _render_network(plan), 0o644),
            *_host_key_files(host),
            (
                "root/.ssh/authorized_keys",
                "".join(f"{it.public} nestctl\n" for it in keys.clients_of(plan.name)),
                0o600,
            ),
            *(outer_subnets(plan) if plan.is_hypervisor else ()),
        ):
            _add(archive, path, content.encode(), mode)
        if plan.network:
            _add_network(archive, plan.network)
        if qemu_answers:
            _add(archive, GUEST_FILE, qemu_answers, 0o600)
        _add_contents(archive, plan.contents)
    return buffer.getvalue()


def _add_contents(archive: tarfile.TarFile, contents: Seed) -> None:
    """Add what the lab file puts into the guest: after ours, so that the user has the last word."""
    for file in contents.files:
        _add(archive, file.path.lstrip("/"), file.content.encode(), int(file.mode, 8))
    if not (contents.users or contents.commands):
        return
    _add(archive, f"{_UNITS}/nestctl-first-boot.service", _UNIT.encode(), 0o644)
    _enable(archive, "nestctl-first-boot.service", "../nestctl-first-boot.service")
    _add(archive, FIRST_BOOT, render_first_boot(contents).encode(), 0o600)


def render_first_boot(contents: Seed) -> str:
    """Render the script of a guest's first boot: what is left to do once its files are there."""
    return "".join((_PRELUDE, *_render_commands(contents)))


def _render_commands(contents: Seed) -> Iterator[str]:
    for package in contents.packages:
        yield f"expect_package {shlex.quote(package)}\n"
    for user in contents.users:
        keys = "".join(f"{key}\n" for key in user.ssh_keys)
        yield f"add_user {user.name} {shlex.quote(keys)}\n"
    for command in contents.commands:
        yield f"run {shlex.quote(command)}\n"


def _host_key_files(host: KeyPair) -> tuple[tuple[str, str, int], ...]:
    return (
        ("etc/ssh/ssh_host_ed25519_key", host.private, 0o600),
        ("etc/ssh/ssh_host_ed25519_key.pub", f"{host.public}\n", 0o644),
    )


def outer_subnets(plan: GuestPlan) -> tuple[tuple[str, str, int], ...]:
    """What a nestctl in the guest has to leave alone: it sees no route to it."""
    text = "".join(f"{subnet}\n" for subnet in (*plan.subnets, *plan.occupied))
    return ((str(OUTER_SUBNETS).lstrip("/"), text, 0o644),)


def render_hosts(plan: GuestPlan) -> str:
    """Render a guest's /etc/hosts: itself, and the guests inside it."""
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


def _add_network(archive: tarfile.TarFile, network: NetworkPlan) -> None:
    """Have libvirt and the network of the guests inside started with the guest, at this boot and all that follow.

    Both are slow in a slow guest, and would be waited for when `up` asks for them.
    """
    _add(archive, f"{_NETWORKS}/{network.name}.xml", render_network(network).encode(), 0o600)
    _link(archive, f"{_NETWORKS}/autostart/{network.name}.xml", f"/{_NETWORKS}/{network.name}.xml")
    _enable(archive, "libvirtd.service", "/lib/systemd/system/libvirtd.service")


def _enable(archive: tarfile.TarFile, unit: str, target: str) -> None:
    _link(archive, f"{_UNITS}/multi-user.target.wants/{unit}", target)


def _link(archive: tarfile.TarFile, path: str, target: str) -> None:
    entry = tarfile.TarInfo(path)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    archive.addfile(entry)


def _add(archive: tarfile.TarFile, path: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
