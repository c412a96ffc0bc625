"""script/setup where no apt-get is: it goes on when the programs are there, and names those that are not."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nestctl.errors import ExitCode

ROOT = Path(__file__).parents[2]
NEEDED = ("gcc", "pkg-config", "qemu-system-x86_64", "qemu-img", "swtpm", "virsh", "ssh", "scp", "virtqemud")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that was set up before, beside a directory of programs without apt-get and dpkg."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in (*NEEDED, "sh", "dirname", "cat", "cut", "sha256sum"):
        (programs / name).symlink_to("/bin/true" if name in NEEDED else shutil.which(name) or "")
    (programs / "python3").symlink_to(sys.executable)
    (tmp_path / "script").mkdir()
    stamped = ("requirements.lock", "pyproject.toml", "script/setup")
    for name in (*stamped, "requirements-dev.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    digest = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in stamped)).hexdigest()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.nestctl-stamp").write_text(f"{digest}\n")
    return tmp_path


def set_up(checkout: Path) -> tuple[int, str]:
    completed = subprocess.run(
        ("/bin/sh", str(checkout / "script/setup")),
        env={"PATH": str(checkout / "bin")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return completed.returncode, completed.stderr


def test_another_distribution_that_has_all_is_gone_on_with(checkout: Path) -> None:
    assert set_up(checkout) == (0, "")


def test_on_another_distribution_what_is_missing_is_named(checkout: Path) -> None:
    (checkout / "bin/qemu-img").unlink()
    (checkout / "bin/pkg-config").unlink()
    said = "setup: this is no Debian or Ubuntu; install by hand: pkg-config, qemu-img, the headers of libvirt\n"
    assert set_up(checkout) == (ExitCode.NOT_FOUND_OUT, said)
