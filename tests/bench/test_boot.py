"""What `nestctl up` costs over the same guests started by hand, with the same image and the same waiting."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Shell
from nestctl.adapters.ssh import DirectRoute, Identity, JumpRoute, Route, SshShell, open_ssh
from nestctl.deadline import Deadline
from nestctl.image.store import Image
from nestctl.lab.host import plan_on, read_host
from nestctl.lab.keys import LabKeys, ensure_keys
from nestctl.lab.plan import GuestPlan
from nestctl.lab.seed import render_seed
from nestctl.lab.store import find_lab
from tests.bench.ratio import Comparison, compare
from tests.nested.harness import Lab, wait_until

Expect = Callable[[Comparison, float], None]

_WAIT = 'tail -n +1 -F "$1" 2>/dev/null | grep -q -m 1 "^nestctl: ready"'

# $1 overlay, $2 its backing image, $3 its size, $4 seed; the seed comes on standard input.
_FILES = 'mkdir -p "${1%/*}" && cat > "$4" && qemu-img create -q -f qcow2 -F raw -b "$2" "$1" "$3"'

_NETWORK = """
set -e
ip link add hand0 type bridge
ip addr add {gateway}/24 dev hand0
ip link set hand0 up
ip tuntap add tap0 mode tap
ip link set tap0 master hand0 up
echo 1 > /proc/sys/net/ipv4/ip_forward
iptables -t nat -A POSTROUTING -s {subnet} -j MASQUERADE
"""


def _deadline() -> Deadline:
    return Deadline.after(900, "A guest started by hand")


def _command(plan: GuestPlan, netdev: str) -> list[str]:
    base = f"file={plan.place.base},if=none,id=base,format=raw,readonly=on"
    emulated = "tcg,thread=multi -cpu max,la57=off,erms=off,svm=on,npt=on"
    words = (
        f"-accel {emulated if plan.place.is_emulated else 'kvm -cpu host'} "
        f"-machine q35 -smp {plan.cpus} -m {plan.memory_mib} -nodefaults -no-user-config -display none "
        f"-kernel {plan.place.kernel} -initrd {plan.place.initrd} -serial file:{plan.console} "
        f"-drive file={plan.disk},if=none,id=root,discard=unmap -device virtio-blk-pci,drive=root,serial=nestctl-root "
        f"-drive file={plan.seed},if=none,id=seed,format=raw,readonly=on "
        "-device virtio-blk-pci,drive=seed,serial=nestctl-seed "
        + (f"-drive {base} -device virtio-blk-pci,drive=base,serial=nestctl-base " if plan.is_hypervisor else "")
        + f"-netdev {netdev},id=net -device virtio-net-pci,netdev=net,mac={plan.uplink.mac},romfile= "
        f"-device virtio-rng-pci -daemonize -pidfile {plan.disk}.pid"
    )
    # By hand nobody needs libvirt, which the seed starts in a hypervisor.
    return [
        "qemu-system-x86_64",
        *words.split(),
        "-append",
        "console=ttyS0 quiet systemd.mask=libvirtd.service",
    ]


def _start(shell: Shell, plan: GuestPlan, keys: LabKeys, netdev: str) -> None:
    files = ("sh", "-c", _FILES, "sh", str(plan.disk), str(plan.place.base), f"{plan.disk_gib}G", str(plan.seed))
    shell.run(files, deadline=_deadline(), stdin=render_seed(plan, keys)).expect_success()
    shell.run(_command(plan, netdev), deadline=_deadline()).expect_success()
    shell.run(("sh", "-c", _WAIT, "sh", str(plan.console)), deadline=_deadline()).expect_success()


@contextmanager
def _log_in(plan: GuestPlan, keys: LabKeys, route: Route) -> Iterator[SshShell]:
    identity = Identity(user="root", client_key=keys.client.private, host_key=keys.hosts[plan.name].public)
    with open_ssh(plan.name, route, identity, deadline=_deadline(), is_ready=True) as shell:
        yield shell


def _boot_by_hand(plan: GuestPlan, keys: LabKeys) -> float:
    """Start a guest, and the first guest inside it, by hand; return the seconds until the innermost answers SSH."""
    begun_s = time.monotonic()
    with ExitStack() as stack:
        uplink = plan.uplink
        forward = f"hostfwd=tcp:127.0.0.1:{uplink.port}-{uplink.address}:22"
        stack.callback(_kill, plan)
        _start(LocalShell(), plan, keys, f"user,net={uplink.subnet},host={uplink.gateway},dns={uplink.dns},{forward}")
        outer = stack.enter_context(_log_in(plan, keys, DirectRoute(host="127.0.0.1", port=uplink.port)))
        for inner in plan.guests:
            network = _NETWORK.format(gateway=inner.uplink.gateway, subnet=inner.uplink.subnet)
            outer.run(("sh", "-c", network), deadline=_deadline()).expect_success()
            _start(outer, inner, keys, "tap,ifname=tap0,script=no,downscript=no,vhost=on")
            route = JumpRoute(through=outer, host=inner.uplink.address)
            stack.enter_context(_log_in(inner, keys, route))
        return time.monotonic() - begun_s


def _kill(plan: GuestPlan) -> None:
    pid = Path(f"{plan.disk}.pid")
    if pid.exists():
        os.kill(int(pid.read_text()), signal.SIGKILL)
    subprocess.run(f"rm -f {shlex.quote(str(plan.place.directory))}/{plan.name}.*", shell=True, check=True)  # noqa: S602


def _boot_by_nestctl(lab: Lab, guest: str) -> float:
    """Return the seconds from the start of `nestctl up` until it has noted that a guest answered SSH.

    What it does after that, asking the guest what it runs on, is not done by hand either.
    """
    begun_s = time.monotonic()
    boots = lab.kept / "boots.json"
    try:
        with lab.start("up") as process:
            wait_until(lambda: boots.exists() and guest in boots.read_text(), timeout_s=900)
            elapsed_s = time.monotonic() - begun_s
            assert process.wait(timeout=300) == 0
        return elapsed_s
    finally:
        lab.nestctl("down").expect(0)


_OUTER = "name: race\nguests:\n  outer:\n    cpus: 2\n    memory_mib: 2048\n    nesting: true\n"
_INNER = "    guests:\n      inner:\n        memory_mib: 1024\n        disk_gib: 4\n"


@pytest.mark.parametrize(("guest", "text", "runs"), [("outer", _OUTER, 9), ("inner", _OUTER + _INNER, 5)])
def test_up_against_qemu_by_hand(guest: str, text: str, runs: int, image: Image, expect_at_most: Expect) -> None:
    assert image.disk.exists()
    with TemporaryDirectory(prefix="n-", dir="/tmp") as directory:
        lab = Lab(directory=Path(directory), name="race")
        lab.write(text)
        by_hand = Path(directory) / "by-hand"
        by_hand.mkdir()
        (plan,) = _plans_by_hand(Path(directory) / "lab.yaml", by_hand)
        keys = ensure_keys(Path(directory) / "keys.json", ["outer", "inner"])
        # The first `up` on a machine makes libvirt probe QEMU; what it learns is kept.
        _boot_by_nestctl(lab, guest)
        comparison = compare(
            f"up until '{guest}' answers",
            lambda: _boot_by_nestctl(lab, guest),
            lambda: _boot_by_hand(plan, keys),
            runs=runs,
        )
    expect_at_most(comparison, 1.10)


_THREE = "name: race\nguests:\n  outer:\n    count: 3\n    memory_mib: 768\n    nesting: true\n"


def test_three_at_once_against_three_qemus_by_hand(image: Image, expect_at_most: Expect) -> None:
    """All three are up: `up` returns, against the last of three that were started together answering SSH."""
    assert image.disk.exists()
    with TemporaryDirectory(prefix="n-", dir="/tmp") as directory:
        lab = Lab(directory=Path(directory), name="race")
        lab.write(_THREE)
        by_hand = Path(directory) / "by-hand"
        by_hand.mkdir()
        plans = _plans_by_hand(Path(directory) / "lab.yaml", by_hand)
        keys = ensure_keys(Path(directory) / "keys.json", (plan.name for plan in plans))
        _boot_all_by_nestctl(lab)
        comparison = compare(
            "up of three guests",
            lambda: _boot_all_by_nestctl(lab),
            lambda: _boot_all_by_hand(plans, keys),
            runs=3,
        )
    expect_at_most(comparison, 1.15)


def _boot_all_by_nestctl(lab: Lab) -> float:
    begun_s = time.monotonic()
    try:
        lab.nestctl("up").expect(0)
        return time.monotonic() - begun_s
    finally:
        lab.nestctl("down").expect(0)


def _boot_all_by_hand(plans: tuple[GuestPlan, ...], keys: LabKeys) -> float:
    begun_s = time.monotonic()
    with ThreadPoolExecutor(max_workers=len(plans)) as pool, ExitStack() as stack:
        for plan in plans:
            stack.callback(_kill, plan)
        list(pool.map(lambda plan: _start_by_hand(plan, keys), plans))
        return time.monotonic() - begun_s


def _start_by_hand(plan: GuestPlan, keys: LabKeys) -> None:
    uplink = plan.uplink
    forward = f"hostfwd=tcp:127.0.0.1:{uplink.port}-{uplink.address}:22"
    _start(LocalShell(), plan, keys, f"user,net={uplink.subnet},host={uplink.gateway},dns={uplink.dns},{forward}")
    with _log_in(plan, keys, DirectRoute(host="127.0.0.1", port=uplink.port)):
        pass


def _plans_by_hand(lab_file: Path, directory: Path) -> tuple[GuestPlan, ...]:
    os.environ["NESTCTL_STATE"] = str(directory)
    try:
        return plan_on(read_host(None), find_lab(str(lab_file)), ())
    finally:
        del os.environ["NESTCTL_STATE"]
