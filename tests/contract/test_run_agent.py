"""The agent through a Shell: the real one on this machine, with programs that are not what they should be."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from nestctl.adapters.agent import open_agent, run_agent
from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, PrerequisiteError


def soon() -> Deadline:
    return Deadline.after(30, "Running the agent")


def shell_with_python(directory: Path, script: str) -> LocalShell:
    """A shell whose 'python3' is a script."""
    program = directory / "python3"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return LocalShell(environment={"PATH": f"{directory}:/usr/bin:/bin"})


def test_the_agent_runs_and_its_arguments_arrive() -> None:
    facts = run_agent(LocalShell(), ["facts", "--passive"], deadline=soon())
    assert facts["schema"] == "nestctl.facts/2"
    assert "--passive" in facts["kvm"]["loop"]["unknown"]


def test_no_file_is_left(tmp_path: Path) -> None:
    shell = LocalShell(
        environment={"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPYCACHEPREFIX": str(tmp_path)}
    )
    run_agent(shell, ["facts", "--passive"], deadline=soon())
    assert list(tmp_path.iterdir()) == []


def test_modules_in_python_path_are_not_taken_for_the_agents(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')\n", encoding="utf-8")
    shell = LocalShell(environment={"PYTHONPATH": str(tmp_path)})
    assert run_agent(shell, ["facts", "--passive"], deadline=soon())["schema"]


def test_a_wrong_subcommand_is_reported_with_what_the_agent_said() -> None:
    with pytest.raises(FailedError, match=r"exit code 2: .*guess"):
        run_agent(LocalShell(), ["guess"], deadline=soon())


def test_missing_python_is_a_prerequisite(tmp_path: Path) -> None:
    shell = shell_with_python(tmp_path, "echo 'sh: 1: python3: not found' >&2; exit 127")
    with pytest.raises(PrerequisiteError, match="There is no 'python3' on this machine"):
        run_agent(shell, ["facts"], deadline=soon())


def test_python_without_its_library_is_a_prerequisite(tmp_path: Path) -> None:
    without_json = "import sys; sys.modules['json'] = None; exec(sys.argv.pop(1))"
    shell = shell_with_python(tmp_path, f'shift 3; exec /usr/bin/python3 -c "{without_json}" "$@"')
    with pytest.raises(PrerequisiteError, match="whole standard library"):
        run_agent(shell, ["facts"], deadline=soon())


def test_an_answer_that_is_no_json_is_shown(tmp_path: Path) -> None:
    with pytest.raises(FailedError, match="not answer with JSON but with 'Welcome'"):
        run_agent(shell_with_python(tmp_path, "cat > /dev/null; echo Welcome"), ["facts"], deadline=soon())


def test_a_silent_failure_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(FailedError, match="exit code 3: it printed nothing"):
        run_agent(shell_with_python(tmp_path, "cat > /dev/null; exit 3"), ["facts"], deadline=soon())


def test_an_agent_that_stays_answers_until_it_fails_and_says_why() -> None:
    with open_agent(LocalShell(), "measure") as agent:
        for _ in range(2):
            assert agent.ask(["fingerprint"], deadline=soon())["environment"]["kernel"]
        words = ["measure", "--workload=syscall", "--target-ms=1", "--samples=1"]
        assert agent.ask(words, deadline=soon())["outcomes"][0]["samples"]
        with pytest.raises(FailedError, match="--guess"):
            agent.ask(["measure", "--guess"], deadline=soon())


def test_python_that_is_missing_is_a_prerequisite_for_one_that_stays(tmp_path: Path) -> None:
    shell = shell_with_python(tmp_path, "echo 'sh: 1: python3: not found' >&2; exit 127")
    with pytest.raises(PrerequisiteError, match="There is no 'python3' on this machine"), open_agent(shell) as agent:
        agent.ask(["fingerprint"], deadline=soon())
