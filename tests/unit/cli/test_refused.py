"""What the system refuses, run as a program of its own: streams that are closed or full, directories that are none."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nestctl.cli.refused import explain_refusal
from nestctl.errors import ExitCode

NESTCTL = (sys.executable, "-m", "nestctl")


def shell(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of sh; "$@" in it is nestctl."""
    return subprocess.run(
        ("sh", "-c", text, "sh", *NESTCTL),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("command", ["--version", "schema lab", "image list"])
def test_a_full_standard_output_is_said_and_is_no_bug(command: str, tmp_path: Path) -> None:
    completed = shell(f'"$@" {command} > /dev/full', NESTCTL_CACHE=str(tmp_path))
    assert completed.returncode == ExitCode.NOT_FOUND_OUT
    assert completed.stderr == "nestctl: No space left on device.\n  Free some space there.\n"


def test_closed_streams_are_no_trouble_and_no_file_takes_their_place(tmp_path: Path) -> None:
    events = tmp_path / "events"
    completed = shell(f'"$@" --events {events} image list <&- >&- 2>&-', NESTCTL_CACHE=str(tmp_path))
    assert completed.returncode == 0
    assert "No image is there" not in events.read_text()


@pytest.mark.parametrize(
    ("variable", "commands"),
    [("NESTCTL_STATE", '"$@" init 2> /dev/null && "$@" status'), ("NESTCTL_CACHE", '"$@" image build')],
)
def test_a_place_that_is_no_directory_is_said_with_its_variable(variable: str, commands: str, tmp_path: Path) -> None:
    completed = shell(f"cd {tmp_path} && {commands}", **{variable: "/dev/null/x"})
    assert completed.returncode == ExitCode.NOT_FOUND_OUT, completed.stderr
    assert ": Not a directory.\n" in completed.stderr
    assert f"{variable} has to name a directory" in completed.stderr


def test_an_account_without_a_home_is_no_bug() -> None:
    try:
        subprocess.run(("unshare", "--user", "--map-user=12345", "true"), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no user namespace can be made here: {error}")
    completed = shell('unset HOME NESTCTL_STATE NESTCTL_CACHE; unshare --user --map-user=12345 "$@" image list')
    assert completed.returncode == 0, completed.stderr


def test_a_home_that_cannot_be_made_is_said() -> None:
    completed = shell('"$@" ssh-config --install', HOME="/dev/null/home")
    assert completed.returncode == ExitCode.NOT_FOUND_OUT, completed.stderr
    assert completed.stderr == "nestctl: '/dev/null/home/.ssh/config' cannot be written: Not a directory.\n"


def test_the_variables_are_named_whose_places_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path))
    monkeypatch.setenv("NESTCTL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("NESTCTL_CACHE", str(tmp_path / "cache"))
    assert "NESTCTL_STATE and NESTCTL_CACHE to places it owns" in getattr(explain_refusal(error), "hint", "")
    monkeypatch.setenv("NESTCTL_CACHE", "/elsewhere")
    assert "NESTCTL_STATE to a place it owns" in getattr(explain_refusal(error), "hint", "")


@pytest.mark.parametrize("command", ["status", "down", "init", "bench show", "check --inventory", "run x --playbook"])
def test_a_name_that_no_file_can_have_is_the_users(command: str, tmp_path: Path) -> None:
    completed = shell(f'cd {tmp_path} && "$@" {command} {"x" * 300}', NESTCTL_STATE=str(tmp_path))
    assert completed.returncode == ExitCode.USAGE, completed.stderr
    assert "File name too long" in completed.stderr


@pytest.mark.parametrize(
    "command", ["bench run --output", "bench tune --output", "quickstart --output", "bundle --output"]
)
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("lab.yaml/there", "'lab.yaml/there' can be no directory: "),
        ("/sys/there/x", "Nothing can be written to '/sys': "),
    ],
)
def test_where_results_cannot_go_is_said_before_there_are_any(
    command: str, place: str, said: str, tmp_path: Path
) -> None:
    text = f'cd {tmp_path} && "$@" init 2> /dev/null && "$@" {command} {place}'
    completed = shell(text, NESTCTL_STATE=str(tmp_path / "state"))
    assert completed.returncode == (ExitCode.NOT_FOUND_OUT if place.startswith("/") else ExitCode.USAGE)
    assert f"nestctl: {said}" in completed.stderr


@pytest.mark.parametrize(("path", "code"), [("/proc/x.yaml", ExitCode.USAGE), ("/sys/x.yaml", ExitCode.NOT_FOUND_OUT)])
def test_a_file_that_the_user_names_is_refused_under_its_name(path: str, code: ExitCode) -> None:
    completed = shell(f'"$@" init {path}')
    assert completed.returncode == code, completed.stderr
    assert completed.stderr.startswith(f"nestctl: '{path}' cannot be written: ")
    assert "NESTCTL_STATE" not in completed.stderr
