"""Switching the parameter 'nested' for real, by the playbook alone and by the command, on a hypervisor without guests.

test_fits.py tries it on one that has some.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import testinfra
from testinfra.host import Host

from nestctl.image.store import Image
from nestctl.paths import resource
from tests.nested.harness import NESTCTL, Completed, Lab, run

DROP_IN = "/etc/modprobe.d/nestctl.conf"
OTHER = "/etc/modprobe.d/zz-other.conf"

# A machine on which the module can only be loaded with nesting off.
LOADS_ONLY_OFF = (
    'install kvm_amd case "$CMDLINE_OPTS" in *nested=1*) exit 1;; esac; modprobe --ignore-install kvm_amd $CMDLINE_OPTS'
)


@pytest.fixture(scope="module")
def spare(image: Image) -> Iterator[Lab]:
    """A lab of one hypervisor that runs no guest: its module may be loaded again."""
    assert image.disk.exists()
    with TemporaryDirectory(prefix="n-", dir="/tmp") as directory:
        lab = Lab(directory=Path(directory), name="spare")
        lab.write("name: spare\nguests:\n  bare:\n    cpus: 1\n    memory_mib: 1024\n    nesting: true\n")
        try:
            lab.nestctl("up", timeout_s=1800).expect(0)
            yield lab
        finally:
            lab.nestctl("down", timeout_s=600).expect(0)
            lab.expect_nothing_left()


@pytest.fixture
def bare(spare: Lab) -> Iterator[Host]:
    host = testinfra.get_host("ssh://bare", ssh_config=str(spare.ssh_config))
    yield host
    host.run_test(f"rm -f {OTHER}")


def play(lab: Lab, guest: str, *arguments: str) -> Completed:
    return run(
        str(Path(sys.executable).with_name("ansible-playbook")),
        f"--inventory={guest},",
        f"--ssh-common-args=-F {lab.ssh_config}",
        *arguments,
        str(resource("playbooks", "nested.yml")),
        timeout_s=600,
        # Ansible's own files go nowhere near the account's home, and ssh's sockets need a short path.
        environment={
            "HOME": str(lab.directory),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "LC_ALL": "C.UTF-8",
        },
    )


def changes(completed: Completed) -> int:
    found = re.search(r"^\S+ +: .*changed=(\d+)", completed.stdout, re.MULTILINE)
    assert found, completed.stdout
    return int(found[1])


def in_effect(host: Host) -> str:
    return str(host.check_output("cat /sys/module/kvm_amd/parameters/nested"))


def test_it_is_switched_off_at_once_and_for_good(spare: Lab, bare: Host) -> None:
    assert changes(play(spare, "bare", "--check", "--diff", "-e", "nested=false").expect(0)) == 1
    assert not bare.file(DROP_IN).exists

    done = spare.nestctl("nested", "off", "--persist", "--now", "spare/bare").expect(0)
    assert f"{DROP_IN}: written: options kvm_amd nested=0" in done.stdout
    assert "kvm_amd: loaded again with nested=0" in done.stdout
    assert "the check says of nesting: KVM offers neither VMX nor SVM" in done.stdout
    assert in_effect(bare) == "0"
    # Guests without SVM do not reach the flaws, and cannot nest.
    checked = spare.nestctl("check", "--untrusted", "--json", "spare/bare").expect(1).json
    assert checked["questions"]["can_nest"]["verdict"] == "no"
    assert next(it["status"] for it in checked["findings"] if it["name"] == "safety.kernel") == "pass"
    written = bare.file(DROP_IN)
    assert written.content_string.splitlines()[-1] == "options kvm_amd nested=0"
    assert (written.user, written.group, written.mode) == ("root", "root", 0o644)

    # The playbook alone finds the same, and a second run changes nothing.
    again = play(spare, "bare", "-e", "nested=false", "-e", "reload=true").expect(0)
    assert changes(again) == 0
    assert "nested=0 is in effect in kvm_amd" in again.stdout
    status = spare.nestctl("nested", "status", "--json", "spare/bare").expect(1).json
    assert status["is_on"] is False
    assert status["module"]["files"] == [{"file": DROP_IN, "value": "0"}]


def test_a_load_that_fails_is_undone(spare: Lab, bare: Host) -> None:
    """It follows the one above: nesting is off, and a file says so."""
    bare.run_test(f"echo '{LOADS_ONLY_OFF}' > {OTHER}")
    failed = spare.nestctl("nested", "on", "--persist", "--now", "spare/bare").expect(4)
    assert "Load the module again" in failed.stderr
    assert "Everything is as it was" in failed.stderr
    assert in_effect(bare) == "0"
    assert bare.file(DROP_IN).content_string.splitlines()[-1] == "options kvm_amd nested=0"


def test_a_file_that_is_read_later_is_named_as_the_obstacle(spare: Lab, bare: Host) -> None:
    bare.run_test(f"echo 'options kvm-amd nested=0' > {OTHER}; rm -f {DROP_IN}")
    failed = spare.nestctl("nested", "on", "spare/bare").expect(4)
    assert f"A file that is read after {DROP_IN} says nested=0" in failed.stderr
    assert not bare.file(DROP_IN).exists


def test_it_is_switched_on_again_through_an_address(spare: Lab, bare: Host) -> None:
    """As a user does who has no lab: by the user's own configuration and known hosts."""
    home = spare.directory / "home"
    (home / ".ssh").mkdir(parents=True)
    port = spare.nestctl("status", "--json").expect(0).json["guests"][0]["ssh_port"]
    host_key = (spare.kept / "known_hosts").read_text().split(" ", 1)[1]
    (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (home / ".ssh/config").write_text(f"IdentityFile {spare.kept / 'client_key'}\n")
    words = (NESTCTL, "nested", "on", "--now", f"ssh://root@127.0.0.1:{port}")
    done = run(*words, timeout_s=900, environment={"HOME": str(home), "NESTCTL_STATE": os.devnull}).expect(0)
    assert "kvm_amd: loaded again with nested=1" in done.stdout
    assert "the check says of nesting: KVM offers SVM to guests" in done.stdout
    assert in_effect(bare) == "1"
    # '--now' without '--persist' writes no file.
    assert not bare.file(DROP_IN).exists
