"""What building an image costs over the bare mmdebstrap run, and building it again over listing it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.image.build import render_command
from nestctl.image.recipe import read_recipe
from tests.bench.ratio import Comparison, compare, timed
from tests.nested.harness import NESTCTL, run

Expect = Callable[[Comparison, float], None]


def _build() -> float:
    with TemporaryDirectory(dir="/var/tmp") as directory:
        build = (NESTCTL, "image", "build")
        return timed(lambda: run(*build, timeout_s=1800, environment={"NESTCTL_CACHE": directory}).expect(0))


def _debootstrap() -> float:
    """The same command without our hook: packages fetched, unpacked, configured, and thrown away."""
    command = [word for word in render_command(read_recipe(), Path("unused")) if "customize-hook" not in word]
    deadline = Deadline.after(1800, "mmdebstrap")
    return timed(lambda: LocalShell().run(command, deadline=deadline).expect_success())


def test_build_against_mmdebstrap(expect_at_most: Expect) -> None:
    assert shutil.which("mmdebstrap")
    expect_at_most(compare("nestctl image build", _build, _debootstrap, runs=2), 1.15)
