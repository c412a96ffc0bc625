from __future__ import annotations

from pathlib import Path

import pytest

from nestctl.errors import ExitCode, PrerequisiteError
from nestctl.paths import cache_directory, resource, state_directory


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NESTCTL_STATE", "/a/state")
    monkeypatch.setenv("NESTCTL_CACHE", "~/cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_directory() == Path("/a/state")
    assert cache_directory() == tmp_path / "cache"


def test_a_relative_directory_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NESTCTL_STATE", "here")
    assert state_directory() == tmp_path / "here"


def test_without_it_there_is_a_place_for_each_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NESTCTL_STATE")
    monkeypatch.delenv("NESTCTL_CACHE")
    assert state_directory() != cache_directory()
    for path in (state_directory(), cache_directory()):
        assert path.is_absolute()
        assert "nestctl" in path.parts[-1]


def test_a_resource_that_is_there_is_found() -> None:
    assert resource("templates", "domain.xml.j2").is_file()
    assert resource("templates").is_dir()
    assert resource("playbooks").is_dir()


def test_a_resource_that_is_missing_is_a_broken_installation() -> None:
    with pytest.raises(PrerequisiteError, match=r"'templates/nothing' is missing from this installation") as raised:
        resource("templates", "nothing")
    assert raised.value.exit_code == ExitCode.NOT_FOUND_OUT
    assert "Install nestctl again" in raised.value.hint
