"""Real guests: QEMU, L1, L2. Nothing is faked here; what is missing is a skip, or a failure with NESTCTL_REQUIRE."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nestctl.image.store import Image
from tests.needs import missing
from tests.nested.harness import Lab, build_image, give_one_cpu

_PROGRAMS = ("qemu-system-x86_64", "qemu-img", "mmdebstrap", "ssh", "mke2fs")

# The files that take minutes, the longest first: so no worker is left alone with one of them in the end.
_LONGEST_FIRST = (
    "test_tenants",
    "test_lab",
    "test_faults",
    "test_cloud_image",
    "test_class",
    "test_adopt",
    "test_proof",
    "test_fits",
    "test_hardware_path",
    "test_playbook",
    "test_deep",
    "test_connections",
    "test_kills",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/nested" in item.path.as_posix():
            item.add_marker(pytest.mark.nested)
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    is_long = item.get_closest_marker("nested") is not None and item.path.stem in _LONGEST_FIRST
    return _LONGEST_FIRST.index(item.path.stem) if is_long else len(_LONGEST_FIRST)


@pytest.fixture(scope="session", autouse=True)
def _programs() -> None:
    """Skip where guests cannot be run; where they are required, fail."""
    if absent := [name for name in _PROGRAMS if shutil.which(name) is None]:
        missing(f"not installed: {', '.join(absent)}")


@pytest.fixture(scope="session")
def image() -> Image:
    """The image every nested test boots; built once in the real cache, as for a user."""
    return build_image()


@pytest.fixture
def state() -> Iterator[Path]:
    """A place for labs of one test, with a short path: sockets in it have at most 108 bytes. Nothing may stay there."""
    with TemporaryDirectory(prefix="n-", dir="/tmp") as directory:
        yield Path(directory) / "s"


@pytest.fixture(scope="module")
def lab(image: Image) -> Iterator[Lab]:
    """The lab of `nestctl init`, up: l1 with l2 inside. The tests of a file share it, and leave it as it was."""
    assert image.disk.exists()
    with (
        TemporaryDirectory(prefix="n-", dir="/tmp") as directory,
        Lab(directory=Path(directory)).removed_in_the_end() as shared,
    ):
        shared.nestctl("init").expect(0)
        give_one_cpu(shared.directory / "lab.yaml")
        shared.nestctl("up", timeout_s=1800).expect(0)
        yield shared
