from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nestctl.cli.complete import complete_guest, complete_lab
from nestctl.lab.ssh_config import GUESTS, write_ssh_config
from nestctl.lab.store import keep_lab, lab_directory
from tests.builders import class_of, lab_of_depth, plans_of, recognizable_keys
from tests.unit.cli.run import python


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def bring_up(*labs: str) -> None:
    for name in labs:
        lab = class_of("ann") if name == "class" else lab_of_depth(2, name)
        write_ssh_config(keep_lab(lab), plans_of(lab), recognizable_keys(lab.guests))


def test_labs_and_lab_files_are_completed() -> None:
    bring_up("demo", "class")
    Path("my.yaml").touch()
    assert complete_lab("") == ["class", "demo", "my.yaml"]
    assert complete_lab("d") == ["demo"]


def test_guests_are_completed_without_their_lab_where_there_is_one() -> None:
    bring_up("demo")
    assert complete_guest("") == ["demo/l1", "demo/l2", "l1", "l2"]
    bring_up("class")
    assert complete_guest("") == ["class/ann", "class/ann-vm", "demo/l1", "demo/l2"]
    assert complete_guest("class/ann-") == ["class/ann-vm"]


def test_whatever_is_wrong_is_silent() -> None:
    assert complete_lab("") == complete_guest("") == []
    bring_up("demo")
    for text in ("", "[]", '{"guests": [1]}', json.dumps({"guests": None})):
        (lab_directory("demo") / GUESTS).write_text(text)
        assert complete_guest("") == []


@pytest.mark.parametrize(
    ("words", "completed"),
    [("ssh de", "demo/l1 demo/l2"), ("exec l", "l1 l2"), ("status ", "demo"), ("run d", "demo"), ("reset l2", "l2")],
)
def test_a_shell_gets_them(words: str, completed: str) -> None:
    bring_up("demo")
    count = len(f"nestctl {words}".split(" ")) - 1
    asked = {"_NESTCTL_COMPLETE": "complete_bash", "COMP_WORDS": f"nestctl {words}", "COMP_CWORD": str(count)}
    shell = subprocess.run(
        [str(Path(sys.executable).with_name("nestctl"))],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shell.stdout.split(), shell.stderr) == (completed.split(), "")


def test_it_loads_nothing_heavy() -> None:
    source = "import sys; from nestctl.cli.complete import *; complete_guest(''); complete_lab(''); print(*sys.modules)"
    loaded = set(python(source).stdout.split())
    assert "nestctl.paths" in loaded
    assert not {"libvirt", "paramiko", "pydantic", "yaml", "rich"} & loaded
