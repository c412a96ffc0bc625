"""The same lab through another connection: an ordinary user's qemu:///session, image and all; and two at once."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pytest

from nestctl.image.recipe import read_recipe
from nestctl.image.store import Image
from tests.needs import missing
from tests.nested.harness import NESTCTL, Completed, run
from tests.nested.test_tenants import machine, need_daemon

_USER = "nestctl-test"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """The home of an account made for this test, closed to all others, as Debian makes homes."""
    if os.geteuid() != 0:
        missing("only root can make an account; an ordinary user's tests run through the session anyway")
    directory = Path(mkdtemp(prefix="n-", dir="/tmp"))
    shutil.rmtree(directory)
    subprocess.run(("useradd", "--create-home", "--home-dir", directory, _USER), check=True, capture_output=True)
    try:
        directory.chmod(0o700)
        if subprocess.run(("runuser", "-u", _USER, "--", "test", "-x", NESTCTL), check=False).returncode:
            missing(f"other accounts cannot reach '{NESTCTL}': the checkout is below a closed directory")
        yield directory
    finally:
        # The user's libvirtd ends by itself only after two idle minutes.
        subprocess.run(("pkill", "-KILL", "-u", _USER), check=False)
        # By force: what was killed may not be gone yet, and an account that stays would be in the next run's way.
        subprocess.run(("userdel", "--force", "--remove", _USER), check=True, capture_output=True)
        shutil.rmtree(directory, ignore_errors=True)


def _as_user(home: Path, *arguments: str) -> Completed:
    keep = ("PATH", "LANG", "SSL_CERT_FILE")
    environment = [f"{name}={os.environ[name]}" for name in keep if name in os.environ]
    command = ("runuser", "-u", _USER, "--", "env", "-i", f"HOME={home}", f"USER={_USER}", *environment)
    return run(*command, NESTCTL, *arguments, timeout_s=1800, cwd=Path("/"))


def test_an_ordinary_user_builds_an_image_and_boots_it_in_a_session(home: Path) -> None:
    """Namespaces instead of root's rights; libvirt's session instead of the system's; the home stays closed."""
    lab = home / "lab.yaml"
    lab.write_text("name: mine\nguests:\n  one:\n    memory_mib: 512\n    disk_gib: 2\n")
    shutil.chown(lab, _USER)
    up = _as_user(home, "up", str(lab), "--json").expect(0)
    assert up.json["guests"][0]["name"] == "one"
    image = home / ".cache/nestctl/images" / read_recipe().name
    assert (image / "disk.raw").stat().st_uid == pwd.getpwnam(_USER).pw_uid
    # The image's files belong to root inside, although no root made them.
    owner = run("debugfs", "-R", "stat /etc/passwd", str(image / "disk.raw")).expect(0).stdout
    assert "User:     0   Group:     0" in owner
    assert _as_user(home, "status", str(lab), "--json").expect(0).json["is_up"]
    assert _as_user(home, "ssh", "mine/one", "--", "hostname").expect(0).stdout == "one\n"
    _as_user(home, "down", str(lab)).expect(0)
    assert not (home / ".local/state/nestctl").exists()
    assert run("pgrep", "-u", _USER, "-f", "qemu-system").exit_code == 1


_DOMAIN = """
<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>{directory}/vmlinuz</kernel></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{directory}/disk.raw'/>
<target dev='vda' bus='virtio'/><readonly/><shareable/></disk></devices></domain>
"""

# In a process of its own: it keeps the driver until it ends.
_EMBEDDED = """
import sys
from nestctl.deadline import Deadline
from nestctl.adapters.libvirt import open_hypervisor
with open_hypervisor(sys.argv[1], deadline=Deadline.after(60, "Opening libvirt")) as hypervisor:
    if sys.argv[2] == "remove":
        hypervisor.remove_domain("b")
    else:
        hypervisor.define_domain(sys.argv[2])
        hypervisor.start_domain("b")
"""


def test_guests_of_the_daemon_and_of_the_driver_without_one_use_an_image_at_once(image: Image) -> None:
    """The daemon's QEMU is another account, to which it gives the files; the driver without one leaves them alone."""
    need_daemon()
    with TemporaryDirectory(prefix="n-", dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o711)
        shutil.copyfile(image.kernel, directory / "vmlinuz")
        (directory / "disk.raw").write_bytes(bytes(1 << 20))
        uri = f"qemu:///embed?root={directory}/e"
        with machine(directory, remembers_owners=True) as prefix:
            try:
                for domain in ("a", "b", "c"):
                    xml = _DOMAIN.format(name=domain, directory=directory)
                    if domain == "b":
                        run(sys.executable, "-c", _EMBEDDED, uri, xml).expect(0)
                        continue
                    (directory / "domain.xml").write_text(xml)
                    run(*prefix, "virsh", "create", str(directory / "domain.xml")).expect(0)
                    # The daemon has given it away.
                    assert (directory / "vmlinuz").stat().st_uid != 0
                assert set(run(*prefix, "virsh", "list", "--name").expect(0).stdout.split()) == {"a", "c"}
            finally:
                run(sys.executable, "-c", _EMBEDDED, uri, "remove").expect(0)
        # Nobody restores what the daemon noted.
        assert run("pgrep", "-f", f"{directory}/e").exit_code == 1
