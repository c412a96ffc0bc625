"""The table of advisories as a file: `table.json`, one object a CVE, written by script/advisories."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from nestctl.check.advisories.advisory import Advisory, Harm, Reach, Vendor
from nestctl.check.advisories.version import KernelVersion, parse_version
from nestctl.errors import UsageError

TABLE_SCHEMA = "nestctl.advisories/2"  # 1: 'mainline' was never null
TABLE = Path(__file__).with_name("table.json")

CVE_ID = re.compile(r"CVE-\d{4}-\d{4,7}", re.ASCII)

E = TypeVar("E", bound=Enum)


@dataclass(frozen=True, kw_only=True)
class AdvisoryTable:
    """The advisories, and the day (ISO 8601) on which their records were read."""

    as_of: str
    advisories: tuple[Advisory, ...]


@cache
def load_advisories() -> AdvisoryTable:
    """Return the table that comes with nestctl."""
    return parse_table(TABLE.read_text(encoding="utf-8"), TABLE.name)


def parse_table(text: str, name: str) -> AdvisoryTable:
    """Read a table. Raises `UsageError` with the row and the column for anything that is not as it should be."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise UsageError(f"'{name}' is no JSON: {error}.") from error
    if not isinstance(document, dict) or document.get("schema") != TABLE_SCHEMA:
        raise UsageError(f"'{name}' is not of the schema '{TABLE_SCHEMA}'.")
    if set(document) != {"schema", "as_of", "advisories"} or not isinstance(document["advisories"], list):
        raise UsageError(f"'{name}' has the keys {sorted(document)} where 'as_of' and the list 'advisories' should be.")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", str(document["as_of"]), re.ASCII):
        raise UsageError(f"'{name}': 'as_of' is '{document['as_of']}' and no day such as '2026-11-25'.")
    advisories = tuple(parse_advisory(row, name) for row in document["advisories"])
    ids = [advisory.id for advisory in advisories]
    if ids != sorted(set(ids), key=sort_key):
        raise UsageError(f"'{name}' has a CVE twice, or its rows are not in the order of their numbers, newest first.")
    return AdvisoryTable(as_of=document["as_of"], advisories=advisories)


def sort_key(cve_id: str) -> tuple[int, int]:
    """Return the key that puts the newest CVE first."""
    _, year, number = cve_id.split("-")
    return -int(year), -int(number)


def parse_advisory(row: Any, name: str) -> Advisory:
    """Read a row. Every column has to be there, and none else."""
    columns = {field.name for field in fields(Advisory)}
    if not isinstance(row, dict) or set(row) != columns:
        shown = sorted(set(row) ^ columns) if isinstance(row, dict) else row
        raise UsageError(f"'{name}': a row has columns too few or too many: {shown!r:.200}.")
    cve_id = row["id"]
    if not isinstance(cve_id, str) or not CVE_ID.fullmatch(cve_id):
        raise UsageError(f"'{name}': '{cve_id}' is no number of a CVE.")
    read = _RowReader(row, f"'{name}', {cve_id}")
    fixed = read.versions("fixed")
    if len({fix.series for fix in fixed}) != len(fixed):
        raise read.wrong("fixed", "versions of different series")
    is_unread = row["mainline"] is None and not fixed  # no record of it could be read
    return Advisory(
        id=cve_id,
        name=read.text("name"),
        what=read.sentence("what"),
        introduced=read.versions("introduced"),
        fixed=fixed,
        mainline=None if is_unread else read.version("mainline"),
        vendor=read.choice("vendor", Vendor),
        reach=read.choice("reach", Reach),
        harm=read.choice("harm", Harm),
        has_public_exploit=read.claim("has_public_exploit"),
        source=read.sentence("source"),
    )


class _RowReader:
    """Reads the columns of one row, and names row and column where one is wrong."""

    def __init__(self, row: Mapping[str, Any], place: str) -> None:
        self._row = row
        self._place = place

    def wrong(self, column: str, wanted: str) -> UsageError:
        return UsageError(f"{self._place}: '{column}' is {self._row[column]!r:.80} and should be {wanted}.")

    def text(self, column: str) -> str:
        if not isinstance(value := self._row[column], str):
            raise self.wrong(column, "text")
        return value

    def sentence(self, column: str) -> str:
        if not (value := self.text(column).strip()):
            raise self.wrong(column, "text that is not empty")
        return value

    def claim(self, column: str) -> bool:
        if not isinstance(value := self._row[column], bool):
            raise self.wrong(column, "true or false")
        return value

    def choice(self, column: str, kind: Callable[[str], E]) -> E:
        try:
            return kind(self.text(column))
        except ValueError as error:
            raise self.wrong(column, f"one of {[str(member) for member in kind]}") from error  # type: ignore[attr-defined]

    def version(self, column: str) -> KernelVersion:
        return self._parse(column, self._row[column])

    def versions(self, column: str) -> tuple[KernelVersion, ...]:
        values = self._row[column]
        if not isinstance(values, list):
            raise self.wrong(column, "a list of versions")
        versions = tuple(self._parse(column, value) for value in values)
        if list(versions) != sorted(set(versions)):
            raise self.wrong(column, "versions in rising order")
        return versions

    def _parse(self, column: str, value: Any) -> KernelVersion:
        try:
            return parse_version(value)
        except (TypeError, ValueError) as error:
            raise self.wrong(column, "a version of the kernel, such as '6.1.176'") from error


def render_table(table: AdvisoryTable) -> str:
    """Write a table as text: a column a line, so that a change shows as one."""
    rows = [_render_advisory(advisory) for advisory in _sorted(table.advisories)]
    heads = f'  "schema": {json.dumps(TABLE_SCHEMA)},\n  "as_of": {json.dumps(table.as_of)},\n'
    return "{\n" + heads + '  "advisories": [\n' + ",\n".join(rows) + "\n  ]\n}\n"


def _sorted(advisories: Sequence[Advisory]) -> list[Advisory]:
    return sorted(advisories, key=lambda advisory: sort_key(advisory.id))


def _render_advisory(advisory: Advisory) -> str:
    lines = []
    for field in fields(Advisory):
        value = getattr(advisory, field.name)
        if isinstance(value, tuple):
            value = [str(version) for version in value]
        elif isinstance(value, KernelVersion):
            value = str(value)
        lines.append(f"      {json.dumps(field.name)}: {json.dumps(value, ensure_ascii=False)}")
    return "    {\n" + ",\n".join(lines) + "\n    }"
