"""Make the table out of source.toml and CVE records. `script/advisories` is its command line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nestctl.check.advisories.records import Ranges, parse_record
from nestctl.check.advisories.table import CVE_ID, AdvisoryTable, parse_advisory
from nestctl.errors import UsageError

_RANGES = frozenset({"introduced", "fixed", "mainline", "source"})
_KEPT = frozenset({"id", "name", "what", "vendor", "reach", "harm", "has_public_exploit", "unread"})


def read_source(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Read source.toml. What the columns may hold is checked when the rows have become advisories."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"'{path}' is no TOML: {error}.") from error
    rows = document.get("advisory")
    if set(document) != {"advisory"} or not isinstance(rows, list):
        raise UsageError(f"'{path}' has the keys {sorted(document)} where only '[[advisory]]' should be.")
    for row in rows:
        if not isinstance(row, dict) or not CVE_ID.fullmatch(str(row.get("id"))) or set(row) - _KEPT - _RANGES:
            raise UsageError(f"'{path}' has a row without 'id', or with a column that is not known: {row!r:.120}.")
    return tuple(rows)


def make_table(rows: tuple[Mapping[str, Any], ...], records: Path, day: str) -> AdvisoryTable:
    """Join rows and records. Raises `UsageError` for the first row or record that is not as it should be."""
    made = (_complete(row, records) for row in rows)
    advisories = (parse_advisory(row, "source.toml") for row in made)
    return AdvisoryTable(as_of=day, advisories=tuple(advisories))


def _complete(row: Mapping[str, Any], records: Path) -> dict[str, Any]:
    complete = {"name": "", "has_public_exploit": False, "introduced": [], **row}
    unread = complete.pop("unread", "")
    if unread and _find_place(row["id"], records) is None:
        complete |= {"fixed": [], "mainline": None, "source": unread}
    elif not _RANGES & set(row):
        complete |= _columns_of(_read_record(row["id"], records), row["id"])
    return complete


def _columns_of(ranges: Ranges, cve_id: str) -> dict[str, Any]:
    return {
        "introduced": [str(version) for version in ranges.introduced],
        "fixed": [str(version) for version in ranges.fixed],
        "mainline": str(ranges.mainline),
        "source": f"record of {cve_id}" + (f", updated {ranges.updated}" if ranges.updated else ""),
    }


def _read_record(cve_id: str, records: Path) -> Ranges:
    path = find_record(cve_id, records)
    try:
        ranges = parse_record(path.read_text(encoding="utf-8"), cve_id)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The record '{path}' cannot be read: {error}.") from error
    if ranges is None:
        raise UsageError(
            f"The record of {cve_id} has no versions that can be compared.",
            hint="Give the row 'fixed', 'mainline' and 'source' in source.toml.",
        )
    return ranges


def find_record(cve_id: str, records: Path) -> Path:
    """Find a record, in the tree of cvelistV5 (cves/2026/53xxx/) or lying in the directory itself."""
    if place := _find_place(cve_id, records):
        return place
    raise UsageError(
        f"There is no record of {cve_id} in '{records}'.",
        hint="Give the directory of a clone of https://github.com/CVEProject/cvelistV5.",
    )


def _find_place(cve_id: str, records: Path) -> Path | None:
    _, year, number = cve_id.split("-")
    inside = Path(year, f"{number[:-3]}xxx", f"{cve_id}.json")
    places = (records / "cves" / inside, records / inside, records / f"{cve_id}.json")
    return next((place for place in places if place.is_file()), None)


def describe_changes(before: AdvisoryTable, after: AdvisoryTable) -> Iterator[str]:
    """Say line by line what is new, gone or another value."""
    old = {advisory.id: advisory for advisory in before.advisories}
    new = {advisory.id: advisory for advisory in after.advisories}
    for cve_id in sorted(old.keys() | new.keys()):
        if cve_id not in old:
            yield f"{cve_id}: new"
        elif cve_id not in new:
            yield f"{cve_id}: gone"
        else:
            for column in vars(new[cve_id]):
                was, now = getattr(old[cve_id], column), getattr(new[cve_id], column)
                if was != now:
                    yield f"{cve_id}: {column}: {_show(was)} -> {_show(now)}"


def _show(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
