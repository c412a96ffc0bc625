"""What every test has: directories of its own, and no setting of the account that runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says nothing where other programs run.
settings.register_profile("nestctl", deadline=None)
settings.load_profile("nestctl")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what is rendered now into tests/golden")


@pytest.fixture(autouse=True)
def own_directory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path | None]:
    """Keep nestctl's state and cache in a directory of the test's own; nested tests choose theirs themselves.

    Its path is short, unlike `tmp_path`: a UNIX socket's has at most 107 bytes (unix(7)).
    """
    if request.node.get_closest_marker("nested"):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="nt-") as directory:
        monkeypatch.setenv("NESTCTL_STATE", f"{directory}/state")
        monkeypatch.setenv("NESTCTL_CACHE", f"{directory}/cache")
        monkeypatch.delenv("LIBVIRT_DEFAULT_URI", raising=False)
        yield Path(directory)
