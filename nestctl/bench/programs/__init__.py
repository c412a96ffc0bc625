"""Benchmark programs as data: one file for each, which says how to run it and how to read what it prints.

A file `NAME.toml` beside this one is the workload NAME. Besides it there has to be a recorded output of the real
program (tests/unit/bench/recorded/programs), and nothing else.
"""

from __future__ import annotations

import json
import re
import tomllib
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from nestctl.model.samples import Better, Family, Frozen, Outcome, Sample, Workload

NS_PER_UNIT = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}


class Levels(StrEnum):
    """Where a program makes sense: everywhere, or only on a level that has one above."""

    ALL = "all"
    GUESTS = "guests"


class Parse(Frozen):
    """How to read the operations and the time they took: the first group of a pattern, or a path into JSON.

    Without `operations` it is one. `elapsed` is in `elapsed_unit`, of all operations together or of each.
    """

    kind: Literal["regex", "json"]
    elapsed: str
    operations: str = ""
    elapsed_unit: Literal["ns", "us", "ms", "s"]
    elapsed_per_operation: bool = False


class Program(Frozen):
    """One file. `command` is for sh on the level, `server` for sh on the level above, before it.

    In both, `{port}` is a free port, `{above}` the address of the level above as the guest sees it, and `{address}` the
    one that the server is to listen on. `how` is what the report shows instead of a long command. `packages` are those
    of Debian that bring `program` and what `command` needs besides; the built image has them (image/recipe.py).
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    unit: str
    better: Better
    scale: float = Field(gt=0)
    about: str
    program: str
    packages: str
    command: str
    server: str = ""
    how: str = ""
    levels: Levels = Levels.ALL
    parse: Parse

    @property
    def workload(self) -> Workload:
        return Workload(
            name=self.name,
            title=self.title,
            unit=self.unit,
            better=self.better,
            scale=self.scale,
            about=self.about,
            family=Family.PROGRAM,
        )


@cache
def read_programs() -> tuple[Program, ...]:
    """Read the files beside this one, by name. A wrong one is a bug: they come with nestctl."""
    return tuple(_read(path) for path in sorted(Path(__file__).parent.glob("*.toml")))


def _read(path: Path) -> Program:
    document = {"name": path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))}
    return Program.model_validate_json(json.dumps(document))


def parse_output(program: Program, text: str) -> Outcome:
    """Read what a program printed. What cannot be read gives an outcome with that reason, never a number."""
    try:
        operations = _find(program.parse, program.parse.operations, text) if program.parse.operations else 1.0
        elapsed_ns = _find(program.parse, program.parse.elapsed, text) * NS_PER_UNIT[program.parse.elapsed_unit]
        if program.parse.elapsed_per_operation:
            elapsed_ns *= operations
        sample = Sample(operations=round(operations), elapsed_ns=round(elapsed_ns))
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        said = " ".join(text.split())[-200:]
        reason = f"what '{program.program}' printed cannot be read ({error}): '{said}'"
        return Outcome(workload=program.name, not_measured=reason)
    return Outcome(workload=program.name, samples=(sample,), how=program.how or program.command)


def _find(parse: Parse, where: str, text: str) -> float:
    if parse.kind == "regex":
        found = re.search(where, text, re.MULTILINE)
        if not found:
            raise LookupError(f"nothing is like '{where}'")
        return float(found.group(1))
    value: Any = json.loads(text)
    for step in where.split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return float(value)
