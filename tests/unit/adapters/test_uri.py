"""Which connection is chosen for an ordinary user, by what is open to libvirt's accounts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestctl.adapters import uri
from nestctl.adapters.uri import SESSION_URI, SYSTEM_URI, choose_uri


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every account can pass through; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.mark.parametrize("closed", [None, "NESTCTL_STATE", "NESTCTL_CACHE"])
def test_the_systems_libvirt_is_for_who_keeps_both_disks_and_images_where_it_can_reach_them(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch, closed: str | None
) -> None:
    monkeypatch.delenv("LIBVIRT_DEFAULT_URI", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(uri, "_SYSTEM_SOCKETS", (open_directory,))
    for name in ("NESTCTL_STATE", "NESTCTL_CACHE"):
        directory = open_directory / name
        directory.mkdir()
        directory.chmod(0o700 if name == closed else 0o711)
        # That it is not there yet closes nothing; what is above it may.
        monkeypatch.setenv(name, str(directory / "nestctl"))
    assert choose_uri(None) == (SESSION_URI if closed else SYSTEM_URI)
