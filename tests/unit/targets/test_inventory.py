"""Inventories as Ansible itself reads them, and what of a host's variables says how to reach it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nestctl.adapters.ansible import list_inventory
from nestctl.adapters.ssh_options import Destination
from nestctl.deadline import Deadline
from nestctl.errors import PrerequisiteError, UnreachableError, UsageError
from nestctl.targets.inventory import parse_host, read_inventory
from nestctl.targets.target import open_target

INI = """
lone
[web]
w[01:03] ansible_port=2222
here ansible_connection=local
[db]
w02
db1 ansible_host=10.0.0.1
[all:vars]
ansible_user=joe
"""

YAML = """
all:
  hosts:
    lone:
  children:
    web:
      hosts:
        w01: {ansible_host: 10.0.0.1, ansible_ssh_common_args: -J gw}
"""


@pytest.mark.slow
def test_an_ini_inventory_is_what_ansible_makes_of_it(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(INI)
    targets = read_inventory(str(tmp_path / "hosts"))
    assert [target.name for target in targets] == ["lone", "w01", "w02", "w03", "here", "db1"]
    assert targets[0].destination == Destination(host="lone", user="joe")
    assert targets[1].destination == Destination(host="w01", user="joe", port=2222)
    assert targets[4].destination is None
    assert targets[5].destination == Destination(host="10.0.0.1", user="joe")


@pytest.mark.slow
def test_a_yaml_inventory_and_the_variables_beside_it(tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").write_text(YAML)
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yaml").write_text("ansible_user: ann\n")
    lone, web = read_inventory(str(tmp_path / "hosts.yaml"))
    assert lone.destination == Destination(host="lone", user="ann")
    assert web.destination == Destination(host="10.0.0.1", user="ann", settings=("ProxyJump gw",))


@pytest.mark.slow
def test_a_limit_is_ansibles_pattern(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(INI)
    found = read_inventory(str(tmp_path / "hosts"), limit="web:!w02")
    assert [target.name for target in found] == ["w01", "w03", "here"]
    with pytest.raises(UsageError, match="has no host like 'nobody'"):
        read_inventory(str(tmp_path / "hosts"), limit="nobody")


@pytest.mark.slow
def test_a_list_is_an_inventory_too() -> None:
    assert [target.name for target in read_inventory("a,b")] == ["a", "b"]


@pytest.mark.slow
@pytest.mark.parametrize(("text", "sentence"), [('{"a": [', "Ansible cannot read the inventory"), ("", "has no host")])
def test_a_wrong_inventory_is_a_usage_error(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").write_text(text)
    with pytest.raises(UsageError, match=sentence):
        read_inventory(str(tmp_path / "hosts.yaml"))


def test_a_missing_inventory_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no inventory"):
        read_inventory(str(tmp_path / "hosts"))


def test_without_ansible_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python3"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PrerequisiteError, match="Ansible is not installed") as raised:
        list_inventory("a,b")
    assert "'pipx inject nestctl ansible-core'" in raised.value.hint


def test_options_of_ssh_mean_the_same_here() -> None:
    target = parse_host(
        "box",
        {
            "ansible_ssh_private_key_file": "/keys/a b",
            "ansible_ssh_common_args": "-F ~/x -o StrictHostKeyChecking=yes -C -l ann",
            "ansible_ssh_extra_args": "-p 7 -i k",
        },
    )
    assert target.destination == Destination(
        host="box",
        file=Path.home() / "x",
        settings=('IdentityFile "/keys/a b"', "StrictHostKeyChecking yes", "User ann", "Port 7", "IdentityFile k"),
    )


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"ansible_connection": "winrm"}, "is reached by 'winrm'"),
        ({"ansible_host": "{{ address }}"}, "a template"),
        ({"ansible_port": "ssh"}, "a number from 1 to 65535"),
        ({"ansible_ssh_common_args": "--what"}, "not ssh's"),
        ({"ansible_ssh_common_args": "'"}, "not ssh's"),
        ({"ansible_ssh_common_args": "box"}, "'box' is no option"),
    ],
)
def test_what_cannot_be_followed_is_said(variables: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_host("box", variables)


def test_a_host_that_cannot_be_followed_is_nothing_to_the_others(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("windows ansible_connection=winrm\nlinux\n")
    windows, linux = read_inventory(str(tmp_path / "hosts"))
    assert "is reached by 'winrm'" in windows.problem
    assert linux.destination == Destination(host="linux")
    with pytest.raises(UnreachableError, match="is reached by 'winrm'"), open_target(windows, Deadline.after(1, "It")):
        pytest.fail("reached by winrm")
