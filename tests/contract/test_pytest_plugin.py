"""The pytest plugin as users have it: pytest runs in a process and a directory of its own.

Hosts answer: a real sshd on loopback stands where guests are (see the fixture `reachable`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nestctl.lab.store import keep_lab
from tests.builders import lab_of_depth

pytestmark = pytest.mark.slow

TESTS = """
import pytest

def test_every_guest(nestctl_host):
    assert nestctl_host.check_output("echo here") == "here"

@pytest.mark.nestctl_nodes("l2", "nothing*")
def test_by_name(nestctl_host, nestctl_node):
    assert (nestctl_node.name, nestctl_node.level, nestctl_node.path) == ("l2", 2, ("l1", "l2"))

@pytest.mark.nestctl_nodes(level=1)
def test_by_level(nestctl_node):
    assert nestctl_node.guest.is_hypervisor

def test_two_at_once(nestctl_host_of):
    assert nestctl_host_of("l1").run("true").rc == nestctl_host_of("l2").run("true").rc == 0
"""


def run_pytest(directory: Path, *words: str, tests: str = TESTS) -> tuple[int, str]:
    (directory / "test_it.py").write_text(tests)
    completed = subprocess.run(
        (sys.executable, "-m", "pytest", "-rA", "--strict-markers", "-p", "no:cacheprovider", *words),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return completed.returncode, completed.stdout + completed.stderr


@pytest.mark.usefixtures("reachable")
def test_a_test_runs_in_every_guest_it_is_about(tmp_path: Path) -> None:
    code, said = run_pytest(tmp_path, "--nestctl-lab", "demo")
    assert code == 0, said
    passed = {line.split("::")[1] for line in said.splitlines() if line.startswith("PASSED")}
    assert passed == {
        "test_every_guest[l1]",
        "test_every_guest[l2]",
        "test_by_name[l2]",
        "test_by_level[l1]",
        "test_two_at_once",
    }


@pytest.mark.usefixtures("reachable")
def test_a_failure_in_a_guest_is_a_failure(tmp_path: Path) -> None:
    code, said = run_pytest(
        tmp_path, "--nestctl-lab", "demo", tests="def test_it(nestctl_host): nestctl_host.check_output('false')\n"
    )
    assert code == 1
    assert "2 failed" in said


def test_without_a_lab_tests_are_skipped_with_the_reason(tmp_path: Path) -> None:
    code, said = run_pytest(tmp_path)
    assert code == 0, said
    assert "4 skipped" in said
    assert said.count("needs a running lab: --nestctl-lab LAB") >= 1


def test_a_lab_that_is_not_there_or_not_up_is_said(tmp_path: Path) -> None:
    code, said = run_pytest(tmp_path, "--nestctl-lab", "nothing")
    assert code == 2
    assert "--nestctl-lab: There is no file and no lab 'nothing'; labs that exist: none." in said
    keep_lab(lab_of_depth(2))
    code, said = run_pytest(tmp_path, "--nestctl-lab", "demo")
    assert code == 2
    assert "--nestctl-lab: The lab 'demo' is not up. Bring it up with 'nestctl up'." in said
    assert "Traceback" not in said


@pytest.mark.usefixtures("reachable")
def test_a_marker_that_fits_no_guest_does_not_pass_unseen(tmp_path: Path) -> None:
    tests = "import pytest\n@pytest.mark.nestctl_nodes('web*', level=2)\ndef test_it(nestctl_host): pass\n"
    code, said = run_pytest(tmp_path, "--nestctl-lab", "demo", tests=tests)
    assert code == 2
    assert "the lab 'demo' has no guest 'web*' at level 2; it has l1 (level 1), l2 (level 2)." in said


@pytest.mark.usefixtures("reachable")
def test_without_testinfra_it_is_said_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("import sys\nsys.modules['testinfra'] = None\n")
    tests = "def test_it(nestctl_host): pass\n"
    code, said = run_pytest(tmp_path, "-p", "no:pytest11.testinfra", "--nestctl-lab", "demo", tests=tests)
    assert code == 1
    assert "Hosts need pytest-testinfra: install 'pytest-testinfra'." in said


def test_a_run_that_does_not_use_it_loads_nothing_of_it(tmp_path: Path) -> None:
    tests = (
        "import sys\n"
        "def test_it():\n"
        "    ours = {name for name in sys.modules if name.startswith('nestctl')}\n"
        "    assert ours == {'nestctl', 'nestctl.pytest_plugin'}\n"
        "    assert not {'libvirt', 'paramiko', 'pydantic', 'typer', 'yaml'} & set(sys.modules)\n"
    )
    code, said = run_pytest(tmp_path, tests=tests)
    assert code == 0, said
    assert "1 passed" in said


def test_its_fixtures_and_marker_are_shown(tmp_path: Path) -> None:
    assert "nestctl_nodes(*patterns, level=None)" in run_pytest(tmp_path, "--markers")[1]
    assert "--nestctl-lab=LAB" in run_pytest(tmp_path, "--help")[1]
