"""Find the result files of earlier runs, by path or by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nestctl.errors import NestctlError, UsageError
from nestctl.model.samples import Results, parse_results

DIRECTORY = Path("results")
PREFIX = "bench-"


@dataclass(frozen=True, kw_only=True)
class Found:
    """One file that is called like a result; `trouble` says why it cannot be read, and then there are no results."""

    path: Path
    results: Results | None
    trouble: str = ""


def list_results(directory: Path = DIRECTORY) -> tuple[Found, ...]:
    """Read every result file of a directory, the newest run first, then those that cannot be read."""
    found = [_read(path) for path in sorted(directory.glob(f"{PREFIX}*.json"))]
    return tuple(sorted(found, key=lambda it: it.results.created if it.results else "", reverse=True))


def find_results(name: str | None, directory: Path = DIRECTORY) -> Path:
    """Find a file by its path, or below `directory` by its name with or without 'bench-' and '.json'.

    Without a name it is the newest run there. Raises `UsageError` when there is none.
    """
    if name is None:
        return _newest(directory)
    for path in (Path(name), *_places(name, directory)):
        if path.is_file():
            return path
    there = ", ".join(path.stem for path in sorted(directory.glob(f"{PREFIX}*.json"))) or "none"
    raise UsageError(
        f"There is no result file '{name}'; in '{directory}' there are: {there}.",
        hint="Give a path, or a name that 'nestctl bench list' shows.",
    )


def read_results(path: Path) -> Results:
    """Read one result file. Raises `UsageError` that names it and what is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"The result file '{path}' cannot be read: {error.strerror}.") from error
    return parse_results(content, source=str(path))


def _read(path: Path) -> Found:
    try:
        return Found(path=path, results=read_results(path))
    except NestctlError as error:
        return Found(path=path, results=None, trouble=error.message)


def _places(name: str, directory: Path) -> Iterator[Path]:
    for stem in (name, f"{PREFIX}{name}"):
        yield directory / stem
        yield directory / f"{stem}.json"


def _newest(directory: Path) -> Path:
    readable = [found.path for found in list_results(directory) if found.results]
    if not readable:
        raise UsageError(f"There is no result in '{directory}'.", hint="Measure with 'nestctl bench', or give a file.")
    return readable[0]
