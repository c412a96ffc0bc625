"""Every playbook is one that Ansible accepts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nestctl.paths import resource

PLAYBOOKS = sorted(resource("playbooks").glob("*.yml"))


def test_there_are_playbooks() -> None:
    assert [path.name for path in PLAYBOOKS] == ["l1-kvm.yml", "nested.yml"]


@pytest.mark.slow
@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.name)
def test_ansible_accepts_it(playbook: Path, tmp_path: Path) -> None:
    command = (str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "--syntax-check", playbook)
    # Ansible's own files go nowhere near the account's home.
    checked = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
    )
    assert checked.returncode == 0, checked.stderr
