"""The same lab through another connection: an ordinary user's qemu:///session, image and all."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from nestctl.image.recipe import read_recipe
from tests.needs import missing
from tests.nested.harness import NESTCTL, Completed, run

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
        subprocess.run(("userdel", "--remove", _USER), check=False, capture_output=True)
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
