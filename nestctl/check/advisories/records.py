"""Read version ranges out of CVE records (CVE JSON 5, as in the list cvelistV5). Pure.

The schema is https://github.com/CVEProject/cve-schema; how the kernel's CNA fills it,
https://docs.kernel.org/process/cve.html and the tool bippy of its repository 'vulns'.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nestctl.check.advisories.version import KernelVersion, parse_version
from nestctl.errors import UsageError

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)

# The types that count versions as kernel.org does. A range of type 'git' has commits, which say nothing to a machine
# that only shows its release.
_COUNTED = ("semver", "custom", "original_commit_for_fix")


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """What a record says about versions; the words are those of `Advisory`. `updated` is a day, or ''."""

    introduced: tuple[KernelVersion, ...]
    fixed: tuple[KernelVersion, ...]
    mainline: KernelVersion
    updated: str


def parse_record(text: str, cve_id: str) -> Ranges | None:
    """Read the record of a CVE. None: it is a proper record whose versions are not in a form that can be compared.

    Raises `UsageError` for what is no record, another CVE's, rejected, or contradicts itself.
    """
    try:
        record = json.loads(text)
        return _read_record(record, cve_id)
    except UsageError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(f"The record of {cve_id} is malformed: {type(error).__name__}: {error}.") from error


def _read_record(record: Mapping[str, Any], cve_id: str) -> Ranges | None:
    about = record["cveMetadata"]
    if record["dataType"] != "CVE_RECORD" or not str(record["dataVersion"]).startswith("5."):
        raise UsageError(
            f"The record of {cve_id} is a '{record['dataType']}' of version '{record['dataVersion']}', "
            "and should be a 'CVE_RECORD' of version 5."
        )
    if about["cveId"] != cve_id:
        raise UsageError(f"The record of {cve_id} is that of '{about['cveId']}'.")
    if about["state"] != "PUBLISHED":
        raise UsageError(f"The record of {cve_id} is '{about['state']}' and not 'PUBLISHED'.")
    entries = list(_counted_entries(record["containers"]["cna"]["affected"], cve_id))
    day = _DAY.match(str(about.get("dateUpdated", "")))
    return _combine(entries, cve_id, day[0] if day else "")


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One entry of `versions`: `version` is None for '0' (since ever), `below` the version it ends before."""

    version: KernelVersion | None
    is_affected: bool
    below: KernelVersion | None
    series: str  # '6.1.*', '*' or ''
    is_mainline_fix: bool


def _counted_entries(affected: Any, cve_id: str) -> Iterator[_Entry]:
    """Yield the entries that count versions, of the products that are the kernel."""
    if not isinstance(affected, list) or not affected:
        raise UsageError(f"The record of {cve_id} is malformed: 'affected' is {affected!r:.80}.")
    for product in affected:
        if not str(product.get("product", "")).lower().startswith("linux"):
            continue
        for entry in product.get("versions", ()):
            if entry["status"] not in ("affected", "unaffected"):
                raise UsageError(f"The record of {cve_id} is malformed: a version's status is '{entry['status']}'.")
            kind = entry.get("versionType", "" if product.get("defaultStatus") == "affected" else "none")
            if kind == "" or kind in _COUNTED:
                yield _read_entry(entry, cve_id)


def _read_entry(entry: Mapping[str, Any], cve_id: str) -> _Entry:
    series = str(entry.get("lessThanOrEqual", ""))
    if series and not re.fullmatch(r"(\d+\.)*\*", series, re.ASCII):
        raise UsageError(f"The record of {cve_id} is malformed: 'lessThanOrEqual' is '{series}' and no series.")
    try:
        return _Entry(
            version=None if entry["version"] == "0" else parse_version(entry["version"]),
            is_affected=entry["status"] == "affected",
            below=parse_version(entry["lessThan"]) if "lessThan" in entry else None,
            series=series,
            is_mainline_fix=entry.get("versionType") == "original_commit_for_fix" or series == "*",
        )
    except ValueError as error:
        raise UsageError(f"The record of {cve_id} is malformed: {error}") from error


def _combine(entries: list[_Entry], cve_id: str, updated: str) -> Ranges | None:
    mainline, fixed = _mainline_fix(entries, cve_id), _stable_fixes(entries, cve_id)
    if mainline is None:
        if fixed:
            raise UsageError(f"The record of {cve_id} has fixes of stable series and none of the mainline.")
        return None
    introduced = {entry.version for entry in entries if entry.is_affected and entry.version}
    return Ranges(introduced=tuple(sorted(introduced)), fixed=fixed, mainline=mainline, updated=updated)


def _mainline_fix(entries: list[_Entry], cve_id: str) -> KernelVersion | None:
    """Return where the mainline is fixed: as it is said, else where what is affected ends before a release of it."""
    said = {entry.version for entry in entries if entry.is_mainline_fix and not entry.is_affected and entry.version}
    ends = {entry.below for entry in entries if entry.is_affected and entry.below and not entry.below.patch}
    fixes = said or ends
    if len(fixes) > 1:
        raise UsageError(f"The record of {cve_id} has more than one fix of the mainline: {sorted(map(str, fixes))}.")
    return next(iter(fixes), None)


def _stable_fixes(entries: list[_Entry], cve_id: str) -> tuple[KernelVersion, ...]:
    """Return where stable series are fixed: what is not affected, and the ends of what is. Some records say both."""
    fixes = {entry.below for entry in entries if entry.is_affected and entry.below and entry.below.patch}
    for entry in entries:
        if entry.is_affected or entry.is_mainline_fix or not entry.version or not entry.series:
            continue
        if entry.series != ".".join(map(str, entry.version.series)) + ".*":
            raise UsageError(
                f"The record of {cve_id} is malformed: '{entry.version}' fixes the series '{entry.series}'."
            )
        fixes.add(entry.version)
    if len({fix.series for fix in fixes}) != len(fixes):
        raise UsageError(f"The record of {cve_id} contradicts itself: {', '.join(map(str, sorted(fixes)))}.")
    return tuple(sorted(fixes))
