"""Many machines at once: a real sshd under twelve addresses, of which three do not do what they should."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.sshd import Server, free_port, start_sshd
from tests.unit.cli.run import nestctl

pytestmark = pytest.mark.slow

ADDRESSES = [f"127.7.0.{number}" for number in range(1, 13)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("machines")
    settings = f"SetEnv HOME={directory}\nLogLevel DEBUG1"
    with start_sshd(directory, addresses=ADDRESSES, settings=settings) as server:
        yield server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "home"
    server.write_home(directory, ADDRESSES[:-1])
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return directory


def uri(server: Server, number: int) -> str:
    return f"ssh://{ADDRESSES[number]}:{server.port}"


@pytest.fixture
def twelve(server: Server) -> list[str]:
    """Nine that answer, one whose host key is not known, one that lets nobody in, one where nobody listens."""
    stranger = f"ssh://nobody@{ADDRESSES[0]}:{server.port}"
    return [
        uri(server, 11),
        *(uri(server, number) for number in range(9)),
        stranger,
        f"ssh://127.0.0.1:{free_port()}",
    ]


def test_what_is_wrong_with_some_is_nothing_to_the_others(twelve: list[str]) -> None:
    completed = nestctl("check", "--passive", "--jobs", "4", "--json", *twelve)
    document = json.loads(completed.stdout)
    assert document["schema"] == "nestctl.check-list/1"
    assert [item["target"] for item in document["targets"]] == twelve
    reached, unreached = document["targets"][1:10], [document["targets"][number] for number in (0, 10, 11)]
    for item in reached:
        assert item["error"] is None
        assert item["report"]["facts"]["schema"].startswith("nestctl.facts/")
        assert item["exit_code"] == {"yes": 0, "no": 1, "unknown": 3}[item["report"]["verdict"]]
    for item, sentence in zip(unreached, ["is not known", "does not let", "Connection refused"], strict=True):
        assert item["report"] is None
        assert sentence in item["error"]["message"]
        assert item["exit_code"] == 3
    assert document["exit_code"] == completed.returncode == 3


def test_the_table_has_a_row_for_each_and_the_reasons(twelve: list[str]) -> None:
    completed = nestctl("check", "--passive", *twelve)
    rows = completed.stdout.splitlines()
    for target in twelve:
        assert sum(row.split(" ")[0] == target for row in rows) >= 1
    assert "Connection refused" in completed.stdout
    assert "ssh-keyscan" in completed.stdout
    assert rows[-1].startswith("12 targets: ")
    assert rows[-1].endswith("(3 without an answer)")
    assert completed.returncode == 3


def test_one_target_is_reported_as_this_machine_is(server: Server) -> None:
    there, here = nestctl("check", "--json", uri(server, 0)), nestctl("check", "--json")
    ours, theirs = json.loads(there.stdout), json.loads(here.stdout)
    assert ours.keys() == theirs.keys()
    assert (ours["schema"], ours["verdict"]) == (theirs["schema"], theirs["verdict"])
    assert there.returncode == here.returncode
    assert "verdict " in nestctl("check", uri(server, 0)).stdout


def test_one_that_cannot_be_reached_is_not_found_out() -> None:
    completed = nestctl("check", f"ssh://127.0.0.1:{free_port()}")
    assert completed.returncode == 3
    assert "Connection refused" in completed.stderr
    assert completed.stdout == ""


def test_a_machine_costs_one_connection_and_one_command(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (log,) = tmp_path_factory.getbasetemp().glob("machines?/log")
    before = log.read_text()
    assert nestctl("check", uri(server, 1)).returncode in {0, 1, 3}
    said = log.read_text()[len(before) :]
    assert said.count("Connection from ") == 1
    assert said.count("Starting session: command") == 1


def test_an_inventory_is_a_list_of_targets(server: Server, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(
        f"[some]\none ansible_host={ADDRESSES[0]}\ntwo ansible_host={ADDRESSES[1]}\n"
        f"[other]\nhere ansible_connection=local\n[all:vars]\nansible_port={server.port}\n"
    )
    completed = nestctl("check", "--passive", "--json", "-i", str(tmp_path / "hosts"), "-l", "!two")
    assert [item["target"] for item in json.loads(completed.stdout)["targets"]] == ["one", "here"]
    assert all(item["report"] for item in json.loads(completed.stdout)["targets"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["box"], "'box' is no target"),
        (["--jobs", "2"], "are about targets, and none is named"),
        (["--limit", "a", "localhost"], "is about an inventory"),
        (["-i", "/nowhere"], "There is no inventory '/nowhere'"),
    ],
)
def test_wrong_use_is_found_before_anything_begins(words: list[str], sentence: str) -> None:
    completed = nestctl("check", *words)
    assert (completed.returncode, completed.stdout) == (2, "")
    assert sentence in completed.stderr


@pytest.fixture
def slow(tmp_path: Path, server: Server) -> Iterator[str]:
    """A machine whose Python does not come to an end."""
    (tmp_path / "slow").mkdir()
    python = tmp_path / "slow/python3"
    python.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/started\nexec sleep 600\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    settings = f"SetEnv HOME={tmp_path} PATH={tmp_path / 'slow'}:/usr/bin:/bin"
    with start_sshd(tmp_path, settings=settings) as other:
        home = Path(os.environ["HOME"])
        key = home / "slow_key"
        key.touch(mode=0o600)
        key.write_text(other.keys.client.private)
        (home / "known").write_text(f"[127.0.0.1]:{other.port} {other.keys.hosts['server'].public}\n")
        (home / ".ssh/config").write_text(
            f"Host slow\n  HostName 127.0.0.1\n  Port {other.port}\n  IdentityFile ~/slow_key\n"
            "  UserKnownHostsFile ~/known\n"
        )
        yield "ssh://slow"


def test_a_machine_that_takes_too_long_does_not_hold_up_the_others(server: Server, slow: str) -> None:
    completed = nestctl("check", "--passive", "--json", "--timeout", "10", slow, uri(server, 0))
    late, other = json.loads(completed.stdout)["targets"]
    assert "did not end in time" in late["error"]["message"]
    assert other["report"]


def test_ctrl_c_ends_all(server: Server, slow: str, tmp_path: Path) -> None:
    command = (
        sys.executable,
        "-m",
        "nestctl",
        "check",
        "--jobs",
        "3",
        slow,
        uri(server, 0),
        slow.replace("slow", "127.0.0.9"),
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end_s = time.monotonic() + 60
        while not (tmp_path / "started").exists():
            assert time.monotonic() < end_s
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in stdout + stderr


def test_a_machine_elsewhere_is_recorded_and_judged_from_the_recording(server: Server, tmp_path: Path) -> None:
    recording = str(tmp_path / "there.tar.gz")
    there = nestctl("check", "--record", recording, uri(server, 0))
    assert "/proc: " in there.stderr
    here = nestctl("check", "--root", recording)
    assert (here.returncode, here.stdout) == (there.returncode, there.stdout)


def test_several_machines_are_not_recorded_as_one(server: Server, tmp_path: Path) -> None:
    completed = nestctl("check", "--record", str(tmp_path / "x.tar.gz"), uri(server, 0), uri(server, 1))
    assert completed.returncode == 2
    assert "there are 2 targets" in completed.stderr
    assert not (tmp_path / "x.tar.gz").exists()
