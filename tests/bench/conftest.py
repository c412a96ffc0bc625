"""Benchmarks: run by `script/test -m bench` or `pytest -m bench`, on a machine that does nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nestctl.image.store import Image
from tests.bench.ratio import Comparison
from tests.nested.harness import build_image


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/bench" in item.path.as_posix():
            item.add_marker(pytest.mark.bench)
            item.add_marker(pytest.mark.nested)


@pytest.fixture(scope="session")
def image() -> Image:
    return build_image()


@pytest.fixture
def expect_at_most(capsys: pytest.CaptureFixture[str]) -> Callable[[Comparison, float], None]:
    """Print a comparison, whatever comes of it, and fail when its ratio is above the bound."""

    def expect(comparison: Comparison, bound: float) -> None:
        with capsys.disabled():
            print(f"\n{comparison} (at most {bound})")  # noqa: T201
        assert comparison.ratio <= bound

    return expect
