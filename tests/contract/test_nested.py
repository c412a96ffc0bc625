"""The script that looks at KVM's module and the playbook, run on this machine: changing nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, NotFoundOutError
from nestctl.targets.module import read_state
from nestctl.targets.switch import Wanted, look_at, switch
from nestctl.targets.target import Target
from tests.contract.sshd import start_sshd
from tests.needs import missing
from tests.unit.cli.run import nestctl

pytestmark = pytest.mark.slow

HERE = Target(name="localhost")
KVM = Path("/dev/kvm")

# A process like QEMU: it has /dev/kvm open, and its guest's name among its words.
HOLDER = "import sys; kvm = open('/dev/kvm', 'rb'); print('open', flush=True); sys.stdin.read()"


def soon() -> Deadline:
    return Deadline.after(60, "Looking")


def test_this_machine_is_looked_at() -> None:
    state = look_at(HERE)
    assert state.name in {"", "kvm_intel", "kvm_amd"}
    assert state.is_root == (os.geteuid() == 0)
    assert nestctl("nested", "status").returncode == (0 if state.is_on else 1)


@pytest.mark.parametrize(
    ("words", "name"),
    [(("-name", "guest=demo-l2,debug-threads=on"), "demo-l2"), (("-name", "plain"), "plain"), ((), "python3")],
)
def test_who_has_kvm_open_is_named_as_its_guest(words: tuple[str, ...], name: str) -> None:
    if not os.access(KVM, os.R_OK):
        missing("/dev/kvm cannot be opened")
    command = ("/usr/bin/python3", "-c", HOLDER, *words)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        users = {user.pid: user.name for user in look_at(HERE).users}
        process.communicate("")
    assert users[process.pid].startswith(name)


def test_a_machine_that_says_something_else_is_not_found_out(tmp_path: Path) -> None:
    (tmp_path / "sh").write_text(f"#!{sys.executable}\nprint('Welcome')\n")
    (tmp_path / "sh").chmod(0o755)
    with pytest.raises(NotFoundOutError, match="could not be read: 'Welcome'"):
        read_state(LocalShell(environment={"PATH": str(tmp_path)}), soon())


@pytest.mark.parametrize("setting", ["", "callback_result_format = yaml", "stdout_callback = oneline"])
def test_the_reason_of_a_play_that_fails_is_the_sentence(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine's processor shows neither VMX nor SVM; where it does, other tests run the playbook for real."""
    (tmp_path / "ansible.cfg").write_text(f"[defaults]\n{setting}\n")
    monkeypatch.setenv("ANSIBLE_CONFIG", str(tmp_path / "ansible.cfg"))
    state = look_at(HERE)
    if state.name:
        pytest.skip("this machine has a module that could be switched, and that is not done here")
    with pytest.raises(FailedError, match="was not switched: The CPU shows neither VMX nor SVM"):
        switch(HERE, state, Wanted(on=True, persist=True, now=False), dry_run=True, deadline=soon())


# As an sshd that answers the first look, and then hangs.
HANGS = """#!/bin/sh
case $SSH_ORIGINAL_COMMAND in *find_it*) exit ;; esac  # what ends the others
[ -e "$0.asked" ] && exec sleep 1000
cat > /dev/null
touch "$0.asked"
cat <<'END'
{"module": "kvm_amd", "state": "loaded", "value": "0", "refcnt": 0, "configured": "", "boot": "", "files": [],
 "users": [], "is_root": true, "has_drop_in": false}
END
"""


def test_a_machine_that_stops_answering_ends_the_command_and_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "command"
    command.write_text(HANGS)
    command.chmod(0o755)
    home = tmp_path / "home"
    with start_sshd(tmp_path, settings=f"ForceCommand {command}") as server:
        server.write_home(home)
        # The program ssh, which Ansible starts, takes the account's home.
        (home / ".ssh/config").write_text(f"IdentityFile {home / '.ssh/id_ed25519'}\n")
        monkeypatch.setenv("HOME", str(home))
        target = f"ssh://127.0.0.1:{server.port}"
        first = nestctl("nested", "on", "--now", "--timeout", "4", target)
        assert first.returncode == 3, first.stderr
        assert f"'{target}' does not answer any more: whether nesting was switched is not known." in first.stderr
        assert "The playbook did not end within 4 s." in first.stderr
        assert f"nestctl nested status {target}" in first.stderr
        second = nestctl("nested", "status", "--timeout", "1", target)
        assert second.returncode == 3, second.stderr
        assert f"Looking at '{target}' may take 1 s" in second.stderr


@pytest.mark.parametrize("word", ["on", "off"])
def test_where_there_is_nothing_to_switch_the_answer_is_no(word: str) -> None:
    if look_at(HERE).name:
        pytest.skip("this machine has a module that could be switched, and that is not done here")
    completed = nestctl("nested", word, "--dry-run")
    assert completed.returncode == 1
    assert "nothing can be set" in completed.stdout
    document = json.loads(nestctl("nested", word, "--dry-run", "--json").stdout)
    assert document["wanted"] == {"on": word == "on", "persist": True, "now": False, "dry_run": True}
    assert "nothing can be set" in document["refused"]
    assert (document["changes"], document["left"]) == (0, "")
