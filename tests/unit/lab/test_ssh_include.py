from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestctl.errors import ExitCode
from nestctl.lab.ssh_config import write_ssh_config
from nestctl.lab.ssh_include import MARK, add_include, remove_include
from nestctl.lab.store import keep_lab
from tests.builders import lab_of_depth, plans_of, recognizable_keys
from tests.needs import need_program
from tests.unit.cli.run import nestctl

pytestmark = pytest.mark.slow

LINE = 'Include "/somewhere/labs/*/ssh_include"'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@given(st.text(st.characters(exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", codec="utf-8")))
def test_what_was_there_is_there_again(text: str) -> None:
    once = add_include(text, LINE)
    assert once.startswith(f"{MARK}\n{LINE}\n")
    assert add_include(once, LINE) == once
    assert remove_include(once) == text
    assert remove_include(text) == text


def test_another_state_directory_takes_the_place_of_the_first() -> None:
    moved = add_include(add_include("Host a\n", LINE), "Include /new/*")
    assert moved == f"{MARK}\nInclude /new/*\nHost a\n"


def test_openssh_finds_guests_of_every_lab_once_it_is_installed(home: Path) -> None:
    need_program("ssh", "openssh-client")
    configuration = home / ".ssh" / "config"
    configuration.parent.mkdir()
    configuration.write_text("Host l2\n    HostName mine.example\n")
    configuration.chmod(0o640)
    for name in ("one", "two"):
        lab = lab_of_depth(2, name)
        write_ssh_config(keep_lab(lab), plans_of(lab), recognizable_keys(lab.guests))
    first = nestctl("ssh-config", "--install")
    assert (first.returncode, "now includes" in first.stderr) == (0, True)
    assert nestctl("ssh-config", "--install").stderr == first.stderr.replace("now includes", "includes")
    assert stat.S_IMODE(configuration.stat().st_mode) == 0o640

    def ask(host: str) -> dict[str, str]:
        # OpenSSH looks for it in the home directory of the account's entry, whatever $HOME says.
        command = ("ssh", "-G", "-F", str(configuration), host)
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)

    assert ask("l2.l1.two")["proxyjump"] == "l1.two"
    assert ask("l1.one")["port"] == "20000"
    assert ask("l2")["hostname"] == "mine.example"
    assert nestctl("ssh-config", "--uninstall").returncode == 0
    assert configuration.read_text() == "Host l2\n    HostName mine.example\n"
    assert "does not include" in nestctl("ssh-config", "--uninstall").stderr


def test_a_configuration_is_made_where_there_is_none(home: Path) -> None:
    assert nestctl("ssh-config", "--install").returncode == 0
    assert stat.S_IMODE((home / ".ssh").stat().st_mode) == 0o700
    assert stat.S_IMODE((home / ".ssh/config").stat().st_mode) == 0o600


def test_a_link_stays_a_link(home: Path) -> None:
    (home / ".ssh").mkdir()
    (home / "dotfiles").write_text("Host a\n")
    (home / ".ssh/config").symlink_to(home / "dotfiles")
    assert nestctl("ssh-config", "--install").returncode == 0
    assert (home / ".ssh/config").is_symlink()
    assert (home / "dotfiles").read_text().endswith("Host a\n")


def test_a_labs_configuration_is_printed() -> None:
    lab = lab_of_depth(2)
    directory = keep_lab(lab)
    write_ssh_config(directory, plans_of(lab), recognizable_keys(lab.guests))
    completed = nestctl("ssh-config", "demo")
    assert completed.stdout == (directory / "ssh_config").read_text()
    assert completed.stderr == ""


def test_wrong_uses_are_usage_errors(home: Path) -> None:
    both = nestctl("ssh-config", "--install", "--uninstall")
    assert both.returncode == ExitCode.USAGE
    assert "are opposites" in both.stderr
    (home / ".ssh").mkdir()
    (home / ".ssh/config").write_bytes(b"\xff")
    assert nestctl("ssh-config", "--install").returncode == ExitCode.USAGE
