"""What people use, on real guests at two levels: commands, files, consoles, OpenSSH, Ansible, a stopped benchmark."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import testinfra

from nestctl.errors import ExitCode
from tests.nested.harness import NESTCTL, Lab, run, wait_until
from tests.nested.test_playbook import DROP_IN, changes, in_effect, play

# What a run starts on a level, there and on the level above.
_STARTED = ("python3", "sysbench", "fio", "iperf3")


def test_commands_run_in_many_guests_at_once(lab: Lab) -> None:
    completed = lab.nestctl("exec", "demo/*", "--", "systemd-detect-virt", "--vm").expect(0)
    outer, inner = completed.stdout.splitlines()
    assert outer in {"l1: kvm", "l1: qemu"}
    assert inner == "l2: kvm"
    assert lab.nestctl("exec", "l2", "--", "sh", "-c", "exit 9").expect(9).stdout == ""
    lab.nestctl("exec", "l*", "--", "test", "-e", "/dev/vdc").expect(ExitCode.NO)


def test_files_go_to_the_second_level_and_come_back(lab: Lab, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_bytes(content)
    lab.nestctl("cp", "-r", str(tmp_path / "there"), "l2:/root/").expect(0)
    lab.nestctl("cp", "l2:/root/there/file", "l1:/root/file").expect(0)
    lab.nestctl("cp", "demo/l1:/root/file", str(tmp_path / "back")).expect(0)
    assert (tmp_path / "back").read_bytes() == content
    lab.nestctl("exec", "l*", "--", "rm", "-rf", "/root/there", "/root/file").expect(0)


def test_the_console_log_of_every_level_is_there(lab: Lab) -> None:
    for guest in ("l1", "l2"):
        assert "nestctl: ready" in lab.nestctl("logs", guest).expect(0).stdout
        assert len(lab.nestctl("logs", guest, "-n", "1").expect(0).stdout.splitlines()) <= 1


def _type_at(lab: Lab, guest: str) -> str:
    """Log in at a guest's console as a person does, at a terminal, and return what is seen."""
    keys, terminal = pty.openpty()
    environment = {**os.environ, "NESTCTL_STATE": str(lab.state)}
    command = (NESTCTL, "console", guest)
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=subprocess.DEVNULL, env=environment, cwd=lab.directory
    ) as process:
        os.close(terminal)
        seen, end_s = "", time.monotonic() + 240
        # Each is typed again until its answer is there: a line typed while getty starts is lost.
        for typed, answer in (("\r", "login:"), ("root\r", "~#"), ("echo $((6*7))-$(hostname)\r", f"42-{guest}")):
            while answer not in seen:
                assert time.monotonic() < end_s, seen
                os.write(keys, typed.encode())
                seen += _read_for(keys, 8)
        os.write(keys, b"exit\r")
        seen += _read_for(keys, 3)
        os.write(keys, b"\x1d")
        _read_for(keys, 5)
        assert process.wait(timeout=60) == 0
    os.close(keys)
    return seen


def _read_for(descriptor: int, seconds: float) -> str:
    seen, end_s = b"", time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        if select.select([descriptor], [], [], min(left_s, 2))[0]:
            try:
                seen += os.read(descriptor, 4096)
            except OSError:  # the other end is closed
                break
        elif seen:
            break
    return seen.decode(errors="replace")


def test_a_person_logs_in_at_the_console_of_every_level(lab: Lab) -> None:
    for guest in ("l1", "l2"):
        assert f"42-{guest}" in _type_at(lab, guest)
    # Whoever is at a console keeps nobody else from this machine's guests.
    lab.nestctl("status").expect(0)


def test_plain_ssh_finds_the_second_level(lab: Lab) -> None:
    included = lab.kept / "ssh_include"
    assert run("ssh", "-F", str(included), "l2.l1.demo", "hostname").expect(0).stdout == "l2\n"


def test_ansible_works_at_every_level_by_an_inventory_script(lab: Lab, tmp_path: Path) -> None:
    script = tmp_path / "demo-inventory"
    script.write_text(f'#!/bin/sh\nNESTCTL_STATE={lab.state} exec {NESTCTL} inventory demo "$@"\n')
    script.chmod(0o755)
    ansible = str(Path(sys.executable).with_name("ansible"))
    answered = run(ansible, "-i", str(script), "all", "-m", "ansible.builtin.ping", timeout_s=400).expect(0)
    assert answered.stdout.count('"ping": "pong"') == 2
    asked = run(ansible, "-i", str(script), "level_2", "-m", "ansible.builtin.command", "-a", "hostname")
    assert asked.expect(0).stdout.splitlines()[-1] == "l2"


def test_pytest_gets_the_guests_of_every_level(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "test_guests.py").write_text(
        "import pytest\n"
        "def test_it_is_up(nestctl_host, nestctl_node):\n"
        "    assert nestctl_host.check_output('hostname') == nestctl_node.name\n"
        "    assert nestctl_host.service('ssh').is_running\n"
        "@pytest.mark.nestctl_nodes(level=2)\n"
        "def test_the_second_level_is_run_by_kvm(nestctl_host):\n"
        "    assert nestctl_host.check_output('systemd-detect-virt') == 'kvm'\n"
    )
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path), "--nestctl-lab", "demo")
    environment = {"NESTCTL_STATE": str(lab.state)}
    assert "3 passed" in run(*command, cwd=tmp_path, environment=environment, timeout_s=400).expect(0).stdout


def test_a_module_in_use_is_never_unloaded(lab: Lab) -> None:
    """L2 runs: the command and the playbook refuse, and name it."""
    refused = lab.nestctl("nested", "off", "--now", "demo/l1").expect(1)
    assert re.search(r"'kvm_amd' is used by 'demo-l2' \(process \d+\)", refused.stdout)
    stopped = play(lab, "l1", "-e", "nested=false", "-e", "reload=true").expect(2)
    assert "kvm_amd is in use by demo-l2" in stopped.stdout + stopped.stderr
    assert changes(stopped) == 0
    l1 = testinfra.get_host("ssh://l1", ssh_config=str(lab.ssh_config))
    assert not l1.file(DROP_IN).exists
    assert in_effect(l1) == "1"
    assert "demo-l2" in lab.nestctl("nested", "status", "demo/l1").expect(0).stdout


def _ours(lab: Lab) -> list[str]:
    """What still runs on this machine that a nestctl of this lab started, QEMU apart."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment, words = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"NESTCTL_STATE={lab.state}".encode() in environment and b"qemu-system" not in words:
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_a_run_that_is_interrupted_keeps_its_rounds_and_leaves_nothing_running(lab: Lab, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    workloads = [f"--workload={name}" for name in ("cpu", "sysbench_cpu", "iperf3_up")]
    with lab.start("--events", str(events), "bench", *workloads, "--output", str(tmp_path)) as process:
        # Round 1 has been measured, and something of round 2 runs now.
        wait_until(lambda: "Round 2" in _text(events) or process.poll() is not None, timeout_s=300)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "Partial: the run was interrupted" in stdout
    (path,) = tmp_path.glob("bench-*.json")
    results = json.loads(path.read_text())
    assert results["ending"] == "interrupted"
    first = {call["level"] for call in results["calls"] if call["round"] == 1}
    assert first == {"L0", "l1", "l2"}
    assert all(call["round"] <= 2 for call in results["calls"])
    assert path.with_suffix(".html").exists()
    assert "Partial" in lab.nestctl("bench", "show", str(path)).expect(0).stdout
    wait_until(lambda: _ours(lab) == [], timeout_s=30)
    for guest in ("l1", "l2"):
        names = lab.nestctl("exec", guest, "--", "ps", "-eo", "comm=").expect(0).stdout.split()
        assert "systemd" in names, "the question is answered"
        assert not set(names) & set(_STARTED)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
