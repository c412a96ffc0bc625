"""Every playbook is one that Ansible accepts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

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


def play_here(play: dict[str, Any], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a play on this machine; programs in the directory go before the system's."""
    playbook = directory / "play.yml"
    playbook.write_text(yaml.safe_dump([play]), encoding="utf-8")
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return subprocess.run(
        (program, "-i", "localhost,", "--connection", "local", playbook),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"HOME": str(directory), "LC_ALL": "C.UTF-8", "PATH": f"{directory}:/usr/bin:/bin"},
    )


@pytest.mark.slow
def test_switching_says_why_where_not_even_the_kept_file_could_be_read(tmp_path: Path) -> None:
    """The rescue runs, as it is in the playbook, after a step before anything was written."""
    (play,) = yaml.safe_load(resource("playbooks", "nested.yml").read_text(encoding="utf-8"))
    change = next(task for task in play["tasks"] if "rescue" in task)
    change["block"] = [{"name": "Keep what the file says now", "ansible.builtin.fail": {"msg": "the disk is broken"}}]
    found = {"state": "loaded", "value": "N", "module": "kvm_intel", "has_drop_in": False, "users": [], "refcnt": 0}
    play |= {"vars": play["vars"] | {"found": found}, "tasks": [change]}
    ran = play_here(play, tmp_path)
    assert ran.returncode == 2
    assert "Keep what the file says now: the disk is broken." in ran.stdout + ran.stderr
    assert "Everything is as it was." in ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("configured", "is_accepted"),
    [
        ("options kvm_intel nested", True),
        ("options kvm-intel ept=1 nested=Y", True),
        ("options kvm_intel nested=0", False),
    ],
)
def test_what_modprobe_will_pass_is_read_with_a_name_alone(configured: str, is_accepted: bool, tmp_path: Path) -> None:
    """The task runs, as it is in the playbook, with a modprobe that prints one line."""
    (play,) = yaml.safe_load(resource("playbooks", "nested.yml").read_text(encoding="utf-8"))
    change = next(task for task in play["tasks"] if "rescue" in task)
    task = next(it for it in change["block"] if it["name"] == "Read what modprobe will pass")
    play |= {"vars": play["vars"] | {"found": {"module": "kvm_intel"}}, "tasks": [task]}
    (tmp_path / "modprobe").write_text(f"echo '{configured}'\n", encoding="utf-8")
    (tmp_path / "modprobe").chmod(0o755)
    assert (play_here(play, tmp_path).returncode == 0) is is_accepted
