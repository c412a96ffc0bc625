"""What a test cannot do without: missing it is skipped with its reason, and fails where NESTCTL_REQUIRE is set."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it where everything has to be there, as in CI."""
    if os.environ.get("NESTCTL_REQUIRE"):
        pytest.fail(f"{what} (NESTCTL_REQUIRE is set)")
    pytest.skip(what)


def need_program(name: str, package: str) -> str:
    """Return the path of a program, also when it is for administrators only."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return found or missing(f"'{name}' is not installed (package '{package}')")
