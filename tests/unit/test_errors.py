from __future__ import annotations

import re

from nestctl import errors
from nestctl.errors import ExitCode, NestctlError


def subclasses(kind: type[NestctlError]) -> list[type[NestctlError]]:
    return [
        it
        for inner in kind.__subclasses__()
        if inner.__module__ == errors.__name__
        for it in (inner, *subclasses(inner))
    ]


def test_the_tree_at_the_top_of_the_module_is_the_real_one() -> None:
    drawn = dict(re.findall(r"^ {6,8}(\w+Error) +(\d+) ", errors.__doc__ or "", re.MULTILINE))
    assert drawn == {kind.__name__: str(int(kind.exit_code)) for kind in subclasses(NestctlError)}


def test_an_error_is_its_sentence() -> None:
    error = NestctlError("It failed.", hint="Try again.")
    assert (str(error), error.message, error.hint) == ("It failed.", "It failed.", "Try again.")
    assert NestctlError("It failed.").hint == ""


def test_no_error_says_no() -> None:
    """1 is the answer "no", and 0 "yes": neither is a failure."""
    kinds: list[type[NestctlError]] = [NestctlError, *subclasses(NestctlError)]
    assert not {kind.exit_code for kind in kinds} & {ExitCode.OK, ExitCode.NO}
