"""The inventory is read by Ansible itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nestctl.errors import ExitCode, NotFoundOutError
from nestctl.lab.inventory import group_nodes, host_variables, read_noted
from nestctl.lab.nodes import list_nodes
from nestctl.lab.ssh_config import write_ssh_config
from nestctl.lab.store import keep_lab
from nestctl.model.lab import Guest, Lab
from tests.builders import plans_of, recognizable_keys
from tests.needs import need_program
from tests.unit.cli.run import nestctl


@pytest.fixture
def lab() -> Lab:
    inner = {"vm-a": Guest(memory_mib=512), "vm-b": Guest(memory_mib=512)}
    return Lab(name="my-lab", guests={"left": Guest(memory_mib=2048, guests=inner), "right": Guest()})


@pytest.fixture
def directory(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    kept = keep_lab(lab)
    write_ssh_config(kept, plans_of(lab, is_emulated=True), recognizable_keys(lab.guests))
    return kept


def read_by_ansible(inventory: Path, tmp_path: Path) -> dict[str, Any]:
    program = need_program(str(Path(sys.executable).with_name("ansible-inventory")), "ansible-core")
    completed = subprocess.run(
        (program, "-i", str(inventory), "--list"),
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert "WARNING" not in completed.stderr, completed.stderr
    document = json.loads(completed.stdout)
    assert isinstance(document, dict)
    return document


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "script"])
def test_ansible_reads_it_as_a_file_and_by_a_script(directory: Path, kind: str, tmp_path: Path) -> None:
    if kind == "file":
        path = tmp_path / "hosts.json"
        path.write_text(nestctl("inventory", "my-lab").stdout)
    else:
        path = tmp_path / "hosts"
        state = directory.parent.parent
        path.write_text(f'#!/bin/sh\nNESTCTL_STATE={state} exec {sys.executable} -m nestctl inventory my-lab "$@"\n')
        path.chmod(0o755)
    document = read_by_ansible(path, tmp_path)
    groups = {name: about["hosts"] for name, about in document.items() if "hosts" in about}
    assert groups == {
        "lab_my_lab": ["left", "vm-a", "vm-b", "right"],
        "level_1": ["left", "right"],
        "level_2": ["vm-a", "vm-b"],
        "hypervisors": ["left"],
        "innermost": ["vm-a", "vm-b", "right"],
        "in_left": ["vm-a", "vm-b"],
    }
    assert document["_meta"]["hostvars"]["vm-b"] == {
        "ansible_host": "vm-b.left.my-lab",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_common_args": f"-F {directory}/ssh_config",
        "ansible_user": "root",
        "nestctl_accelerator": "kvm",
        "nestctl_address": "10.213.1.11",
        "nestctl_is_adopted": False,
        "nestctl_is_hypervisor": False,
        "nestctl_lab": "my-lab",
        "nestctl_level": 2,
        "nestctl_path": ["left", "vm-b"],
    }
    assert document["_meta"]["hostvars"]["left"]["nestctl_accelerator"] == "tcg"


@pytest.mark.slow
def test_one_host_is_asked_for_by_its_name(lab: Lab, directory: Path) -> None:
    completed = nestctl("inventory", "my-lab", "--host", "vm-a")
    assert json.loads(completed.stdout) == host_variables(list_nodes(lab)[1], read_noted(directory))
    unknown = nestctl("inventory", "my-lab", "--host", "nobody")
    assert unknown.returncode == ExitCode.USAGE
    assert "The lab 'my-lab' has no guest 'nobody'" in unknown.stderr


def test_every_guest_is_in_its_groups_once(lab: Lab) -> None:
    for hosts in group_nodes(list_nodes(lab)).values():
        assert len(hosts) == len(set(hosts))


@pytest.mark.parametrize("text", ["", "[]", '{"guests": [{}]}', None])
def test_a_damaged_note_is_not_found_out(directory: Path, text: str | None) -> None:
    path = directory / "guests.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(NotFoundOutError, match=r"guests\.json' cannot be read"):
        read_noted(directory)
