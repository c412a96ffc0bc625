"""What `run` does in guests once they are up: a real command and a real playbook, by ssh and Ansible.

A real sshd stands where guests are (see the fixture `reachable`); tests/nested/test_class.py has guests.
"""

from __future__ import annotations

import getpass
import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import pytest

from nestctl import console
from nestctl.errors import UsageError
from nestctl.events import open_events
from nestctl.lab.junit import render_junit
from nestctl.lab.outcomes import render_run, render_run_table, say_how_to_reach
from nestctl.lab.reach import Outcome
from nestctl.lab.run import RunResult, Task, check_task, choose_nodes, run_task
from nestctl.model.lab import Guest, Lab
from tests.builders import class_of, lab_of_depth
from tests.nested.harness import wait_until
from tests.unit.lab.test_status import shown as show

pytestmark = pytest.mark.slow

PLAYBOOK = f"""
- hosts: HOSTS
  gather_facts: false
  remote_user: {getpass.getuser()}
  vars:
    ansible_user: {getpass.getuser()}
  tasks:
    - name: Say who it is
      ansible.builtin.raw: echo {{{{ nestctl_path | join('/') }}}}
      register: said
    - ansible.builtin.assert:
        that: said.stdout | trim in WANTED
"""


@pytest.fixture
def playbook(tmp_path: Path) -> Path:
    return tmp_path / "play.yml"


def play(reachable: Path, playbook: Path, *, hosts: str, wanted: str) -> tuple[Outcome, ...]:
    assert reachable.exists()
    playbook.write_text(PLAYBOOK.replace("HOSTS", hosts).replace("WANTED", wanted))
    lab = lab_of_depth(2)
    return run_task(Task(playbook=playbook), lab, choose_nodes(lab, "*"), console.step)


def result_of(outcomes: tuple[Outcome, ...], **about: object) -> RunResult:
    return RunResult(lab="demo", task=Task(words=("make", "check")), outcomes=outcomes, duration_s=2.5, **about)  # type: ignore[arg-type]


@pytest.mark.usefixtures("reachable")
def test_a_command_has_its_result_in_every_guest() -> None:
    lab = lab_of_depth(2)
    outcomes = run_task(
        Task(words=("sh", "-c", "echo out; echo err >&2; exit 3")), lab, choose_nodes(lab, "*"), console.step
    )
    assert [(it.node.name, it.exit_code, it.stdout, it.stderr) for it in outcomes] == [
        (name, 3, "out\n", "err\n") for name in ("l1", "l2")
    ]


@pytest.mark.usefixtures("reachable")
def test_every_row_is_an_event_that_ends_as_the_row_does(tmp_path: Path) -> None:
    lab, log = lab_of_depth(2), open_events(tmp_path / "events")
    run_task(Task(words=("sh", "-c", '[ "$NOBODY" = here ] || exit 3')), lab, choose_nodes(lab, "l2"), log.step)
    run_task(Task(words=("true",)), lab, choose_nodes(lab, "l1"), log.step)
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert [(it["event"], it["node"], it["level"], it.get("error", "")) for it in events] == [
        ("begun", "l2", 2, ""),
        ("failed", "l2", 2, "It ended with exit code 3."),
        ("begun", "l1", 1, ""),
        ("done", "l1", 1, ""),
    ]


def test_a_playbook_runs_for_every_guest_by_itself(reachable: Path, playbook: Path) -> None:
    outer, inner = play(reachable, playbook, hosts="all", wanted="['l1']")
    assert outer.exit_code == 0, outer.stdout + outer.stderr
    assert inner.exit_code == 2
    assert "Assertion failed" in inner.stdout
    assert "l1" not in [line.split()[0] for line in inner.stdout.splitlines() if ": ok=" in line]


def test_no_connection_of_a_playbook_stays(reachable: Path, playbook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ansible's ssh keeps one for a minute, in a session of its own."""
    with TemporaryDirectory(prefix="n-", dir="/tmp") as directory:
        monkeypatch.setattr("tempfile.tempdir", directory)
        outer, _ = play(reachable, playbook, hosts="all", wanted="['l1']")
        assert outer.is_success
        wait_until(lambda: directory not in _list_processes(), timeout_s=10)  # it is told to end, and ends soon


def _list_processes() -> str:
    return subprocess.run(("ps", "-e", "-o", "args"), check=True, capture_output=True, text=True).stdout


def test_a_playbook_that_leaves_a_guest_out_does_not_pass_for_it(reachable: Path, playbook: Path) -> None:
    outer, inner = play(reachable, playbook, hosts="level_1", wanted="['l1']")
    assert outer.is_success
    assert inner.exit_code is None
    assert inner.trouble == "No play of the playbook is for this guest: its 'hosts' leaves it out."


def test_a_guest_that_ansible_does_not_reach_gives_no_answer(reachable: Path, playbook: Path) -> None:
    configuration = reachable / "ssh_config"
    configuration.write_text("Host l2.l1.demo\n    Port 1\n    ProxyCommand none\n" + configuration.read_text())
    outer, inner = play(reachable, playbook, hosts="all", wanted="['l1', 'l1/l2']")
    assert outer.is_success
    assert (inner.exit_code, inner.trouble) == (None, "Ansible cannot reach it.")


def test_by_default_it_is_the_innermost_guests() -> None:
    lab = class_of("ann", "bob")
    assert [node.name for node in choose_nodes(lab, None)] == ["ann-vm", "bob-vm"]
    assert [node.name for node in choose_nodes(lab, "ann*")] == ["ann", "ann-vm"]
    with pytest.raises(UsageError, match="has no guest 'eve'"):
        choose_nodes(lab, "eve")


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"words": []}, "Say what to run"),
        ({"words": ["a"], "playbook": Path("p")}, "two things to run"),
        ({"words": [], "playbook": Path("absent.yml")}, "There is no playbook 'absent.yml'"),
        ({"words": ["a"], "junit": Path("absent/r.xml")}, "There is no directory 'absent'"),
        ({"words": ["a"], "junit": Path("/tmp")}, "'/tmp' is a directory"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(about: dict[str, object], said: str) -> None:
    defaults: dict[str, object] = {"playbook": None, "nodes": None, "timeout_s": 1.0, "junit": None}
    with pytest.raises(UsageError, match=said):
        check_task(**{**defaults, **about})  # type: ignore[arg-type]


def three_rows() -> tuple[Outcome, ...]:
    """One that passed, one that failed, one that did not answer."""
    inner = {"b": Guest(memory_mib=512, labels={"cpu": "<old>"}), "c": Guest(memory_mib=512)}
    lab = Lab(name="demo", guests={"a": Guest(memory_mib=2048, labels={"cpu": "new"}, guests=inner)})
    a, b, c = choose_nodes(lab, "*")
    return (
        Outcome(node=a, exit_code=0, stdout="fine\n", stderr="", duration_s=1.0),
        Outcome(node=b, exit_code=7, stdout="x", stderr="\x1b[31mred\x1b[0m & <bad>\n", duration_s=0.5),
        Outcome(node=c, exit_code=None, stdout="", stderr="", duration_s=0.1, trouble="It cannot be reached: no"),
    )


def test_the_table_has_a_row_for_each_guest() -> None:
    text = show(render_run_table(result_of(three_rows())))
    rows = [line.split() for line in text.splitlines() if line.strip()]
    assert rows[2:] == [
        ["a", "L1", "new", "passed", "1.0", "s", "fine"],
        ["b", "L2", "<old>", "failed", "(7)", "0.5", "s", "red", "&", "<bad>"],
        ["c", "L2", "no", "answer", "0.1", "s", "It", "cannot", "be", "reached:", "no"],
    ]


def test_the_document_has_all_of_it() -> None:
    document = json.loads(json.dumps(render_run(result_of(three_rows(), kept=("a",)))))
    assert document["schema"] == "nestctl.run/1"
    assert (document["command"], document["is_success"], document["kept"]) == (["make", "check"], False, ["a"])
    assert [guest["exit_code"] for guest in document["guests"]] == [0, 7, None]
    assert document["guests"][1]["labels"] == {"cpu": "<old>"}


def test_junit_tells_failures_from_errors_and_is_xml_whatever_was_printed() -> None:
    root = ElementTree.fromstring(render_junit(result_of(three_rows())))  # noqa: S314 - our own
    suite = root.find("testsuite")
    assert suite is not None
    assert {key: suite.get(key) for key in ("tests", "failures", "errors")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
    }
    a, b, c = suite.findall("testcase")
    assert [(it.get("classname"), it.get("name")) for it in (a, b, c)] == [
        ("demo", "a"),
        ("demo.a", "b"),
        ("demo.a", "c"),
    ]
    assert a.find("failure") is None
    assert b.findtext("failure") == "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}[0m & <bad>\n"
    assert [(it.get("name"), it.get("value")) for it in b.iterfind("properties/property")] == [("cpu", "<old>")]
    assert c.find("error") is not None


def test_what_is_kept_is_said_with_how_to_reach_it() -> None:
    assert say_how_to_reach(result_of(three_rows(), kept=("a",))).splitlines() == [
        "Kept: a. 'nestctl down demo' removes it.",
        "  nestctl ssh demo/b",
        "  nestctl ssh demo/c",
    ]
