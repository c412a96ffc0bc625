"""How long a user waits before anything happens."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.ratio import Comparison, compare, timed
from tests.nested.harness import NESTCTL, run

_ANSIBLE = str(Path(sys.executable).with_name("ansible"))

Expect = Callable[[Comparison, float], None]


def _facts_by_ansible() -> float:
    return timed(lambda: run(_ANSIBLE, "localhost", "-m", "setup").expect(0))


@pytest.fixture(autouse=True)
def _warm_up() -> None:
    assert shutil.which(_ANSIBLE)
    _facts_by_ansible()
    run(NESTCTL, "check")


def test_check_against_ansible(expect_at_most: Expect) -> None:
    # Its exit code says what this machine can do; any but a failure to look is an answer.
    check = compare("nestctl check", lambda: timed(lambda: run(NESTCTL, "check")), _facts_by_ansible, runs=7)
    expect_at_most(check, 0.15)


def test_help_against_ansible(expect_at_most: Expect) -> None:
    shown = compare("nestctl --help", lambda: timed(lambda: run(NESTCTL, "--help")), _facts_by_ansible, runs=7)
    expect_at_most(shown, 0.1)
