"""The playbook that sets the parameter 'nested', run by Ansible against a real hypervisor: the lab's L1."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

from nestctl.paths import resource
from tests.nested.harness import Completed, Lab, run

DROP_IN = "/etc/modprobe.d/nestctl.conf"


@pytest.fixture
def l1(lab: Lab) -> Iterator[Host]:
    host = testinfra.get_host("ssh://l1", ssh_config=str(lab.ssh_config))
    yield host
    host.run_test(f"rm -f {DROP_IN} /etc/modprobe.d/zz-other.conf")


@pytest.fixture
def module(l1: Host) -> str:
    return "kvm_intel" if l1.file("/sys/module/kvm_intel").exists else "kvm_amd"


def play(lab: Lab, *arguments: str) -> Completed:
    return run(
        str(Path(sys.executable).with_name("ansible-playbook")),
        "--inventory=l1,",
        f"--ssh-common-args=-F {lab.ssh_config}",
        *arguments,
        str(resource("playbooks", "nested.yml")),
        timeout_s=600,
        # Ansible's own files go nowhere near the account's home, and ssh's sockets need a short path.
        environment={"HOME": str(lab.directory), "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"},
    )


def changes(completed: Completed) -> int:
    found = re.search(r"^l1 .*changed=(\d+)", completed.stdout, re.MULTILINE)
    assert found, completed.stdout
    return int(found[1])


def test_it_is_written_once_and_check_mode_only_looks(lab: Lab, l1: Host, module: str) -> None:
    assert changes(play(lab, "--check").expect(0)) == 1
    assert not l1.file(DROP_IN).exists

    first = play(lab).expect(0)
    assert changes(first) == 1
    assert f"nested=1 is in effect in {module}" in first.stdout
    written = l1.file(DROP_IN)
    assert written.content_string.splitlines()[-1] == f"options {module} nested=1"
    assert (written.user, written.group, written.mode) == ("root", "root", 0o644)

    assert changes(play(lab).expect(0)) == 0


def test_a_module_in_use_is_never_unloaded(lab: Lab, l1: Host, module: str) -> None:
    """L2 runs: the module stays as it is, also where a reload is asked for, and the play says what is left to do."""
    completed = play(lab, "-e", "nested=false", "-e", "reload=true").expect(0)
    assert changes(completed) == 1
    assert f"{module} runs with nested=" in completed.stdout
    assert "is in use" in completed.stdout
    assert l1.file(DROP_IN).content_string.splitlines()[-1] == f"options {module} nested=0"
    assert l1.file(f"/sys/module/{module}/parameters/nested").content_string.strip() in {"1", "Y"}
    assert l1.check_output("virsh -c qemu:///system domstate demo-l2") == "running"


def test_a_file_that_is_read_later_is_named_as_the_obstacle(lab: Lab, l1: Host, module: str) -> None:
    l1.run_test(f"echo 'options {module} nested=1' > /etc/modprobe.d/zz-other.conf")
    refused = play(lab, "-e", "nested=false").expect(2)
    assert "a file that is read after it says nested=1" in refused.stdout + refused.stderr
