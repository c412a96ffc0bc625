"""Records of CVEs, real ones and ones constructed to be wrong, and the script that makes the table of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nestctl.check.advisories import load_advisories
from nestctl.check.advisories.generate import describe_changes, find_record, make_table, read_source
from nestctl.check.advisories.records import parse_record
from nestctl.check.advisories.table import TABLE, parse_table
from nestctl.errors import UsageError

ROOT = Path(__file__).parents[3]
RECORDS = Path(__file__).with_name("records")
ADVISORIES = {advisory.id: advisory for advisory in load_advisories().advisories}
JANUSCAPE = "CVE-2026-53359"


def read(cve: str) -> str:
    return (RECORDS / f"{cve}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("cve", "updated"),
    [("CVE-2026-53359", "2026-10-03"), ("CVE-2026-64561", "2026-08-09"), ("CVE-2026-89932", "2026-09-16")],
)
def test_the_table_has_what_the_real_record_says(cve: str, updated: str) -> None:
    ranges, advisory = parse_record(read(cve), cve), ADVISORIES[cve]
    assert ranges
    assert (ranges.introduced, ranges.fixed, ranges.mainline) == (
        advisory.introduced,
        advisory.fixed,
        advisory.mainline,
    )
    assert ranges.updated == updated


def test_a_range_that_ends_before_a_release_is_fixed_there() -> None:
    """The real record of CVE-2022-2196: since ever, and less than 6.2, of the type 'custom'."""
    ranges = parse_record(read("CVE-2022-2196"), "CVE-2022-2196")
    assert ranges
    assert (ranges.introduced, ranges.fixed, str(ranges.mainline)) == ((), (), "6.2")


@pytest.mark.parametrize("cve", ["CVE-2022-3344", "CVE-2021-29657"])
def test_an_older_real_record_has_nothing_to_compare(cve: str) -> None:
    assert parse_record(read(cve), cve) is None


def test_a_flaw_that_stable_series_got_by_backports_comes_in_with_each() -> None:
    """Constructed: the first block of the kernel CNA's records, for a flaw of 6.2 that 6.1.12 has as well."""
    record = json.loads(read(JANUSCAPE))
    git, counted = record["containers"]["cna"]["affected"]
    git["versions"].append({"version": "6.1.12", "lessThan": "6.1.177", "status": "affected", "versionType": "semver"})
    counted["versions"][0]["version"] = "6.2"
    ranges = parse_record(json.dumps(record), JANUSCAPE)
    assert ranges
    assert [str(version) for version in ranges.introduced] == ["6.1.12", "6.2"]
    assert ranges.fixed == ADVISORIES[JANUSCAPE].fixed


Change = Callable[[dict[str, Any]], object]


def counted(record: dict[str, Any]) -> list[dict[str, Any]]:
    versions: list[dict[str, Any]] = record["containers"]["cna"]["affected"][1]["versions"]
    return versions


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: record["cveMetadata"].update(cveId="CVE-2026-1111"), "is that of 'CVE-2026-1111'"),
        (lambda record: record["cveMetadata"].update(state="REJECTED"), "is 'REJECTED'"),
        (lambda record: record.update(dataVersion="4.0"), "of version '4.0'"),
        (lambda record: record.pop("cveMetadata"), "is malformed: KeyError: 'cveMetadata'"),
        (lambda record: record["containers"].update(cna=[]), "is malformed: TypeError"),
        (lambda record: record["containers"]["cna"].update(affected=[]), "'affected' is \\[\\]"),
        (lambda record: record["containers"]["cna"].update(affected=[3]), "is malformed: AttributeError"),
        (lambda record: counted(record)[2].pop("version"), "is malformed: KeyError: 'version'"),
        (lambda record: counted(record)[2].update(version="5.15.x"), "'5.15.x' is no version"),
        (lambda record: counted(record)[2].update(version=5.15), "is malformed: TypeError"),
        (lambda record: counted(record)[2].update(lessThanOrEqual="6.1.*"), "'5.15.222' fixes the series '6.1.\\*'"),
        (lambda record: counted(record)[2].update(lessThanOrEqual="5.15.999"), "is '5.15.999' and no series"),
        (lambda record: counted(record)[2].update(status="maybe"), "status is 'maybe'"),
        (lambda record: counted(record).pop(), "none of the mainline"),
        (lambda record: counted(record).append({**counted(record)[3], "version": "6.1.178"}), "contradicts itself"),
        (lambda record: counted(record).append({**counted(record)[-1], "version": "7.3"}), "more than one fix"),
    ],
)
def test_a_malformed_record_is_refused_with_a_sentence(change: Change, said: str) -> None:
    """Constructed: the real record of CVE-2026-53359 with one thing wrong."""
    record = json.loads(read(JANUSCAPE))
    change(record)
    with pytest.raises(UsageError, match=said):
        parse_record(json.dumps(record), JANUSCAPE)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000])
def test_what_is_no_record_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="The record of CVE-2026-53359 is malformed"):
        parse_record(text, JANUSCAPE)


SOURCE = f"""
[[advisory]]
id = "{JANUSCAPE}"
what = "constructed row over the real record"
vendor = "both"
reach = "shadow"
harm = "host"

[[advisory]]
id = "CVE-2021-29657"
what = "kept by hand"
vendor = "amd"
reach = "nested"
harm = "host"
has_public_exploit = true
fixed = ["5.10.28"]
mainline = "5.12"
source = "constructed"
"""


UNREAD = """
[[advisory]]
id = "CVE-2026-53359"
what = "one whose record is not there yet"
vendor = "both"
reach = "shadow"
harm = "host"
unread = "no copy of its record could be read"
"""


def script(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, ROOT / "script/advisories", *words), capture_output=True, text=True, timeout=60, check=False
    )


def test_the_script_writes_the_table_says_what_changed_and_then_nothing(tmp_path: Path) -> None:
    source, table = tmp_path / "source.toml", tmp_path / "table.json"
    source.write_text(SOURCE, encoding="utf-8")
    words = (RECORDS, "--source", source, "--table", table, "--day", "2026-11-25")
    assert script(*words, "--check").returncode == 1
    assert not table.exists()
    first = script(*words)
    assert (first.returncode, first.stdout) == (0, "CVE-2021-29657: new\nCVE-2026-53359: new\n")
    made = parse_table(table.read_text(encoding="utf-8"), "table.json")
    assert [advisory.id for advisory in made.advisories] == [JANUSCAPE, "CVE-2021-29657"]
    assert made.advisories[0].fixed == ADVISORIES[JANUSCAPE].fixed
    assert made.as_of == "2026-11-25"
    assert script(*words, "--check").stdout == "nothing changes\n"

    source.write_text(SOURCE.replace('"5.10.28"', '"5.10.28", "5.11.12"').replace("shadow", "any"), encoding="utf-8")
    again = script(*words)
    assert again.stdout == ("CVE-2021-29657: fixed: 5.10.28 -> 5.10.28 5.11.12\nCVE-2026-53359: reach: shadow -> any\n")


def test_a_row_without_a_record_has_no_versions_until_there_is_one(tmp_path: Path) -> None:
    source, table = tmp_path / "source.toml", tmp_path / "table.json"
    source.write_text(UNREAD, encoding="utf-8")
    assert script(tmp_path, "--source", source, "--table", table).stdout == "CVE-2026-53359: new\n"
    (unread,) = parse_table(table.read_text(encoding="utf-8"), "table.json").advisories
    assert (unread.mainline, unread.fixed, unread.source) == (None, (), "no copy of its record could be read")
    assert "CVE-2026-53359: mainline: None -> 7.2\n" in script(RECORDS, "--source", source, "--table", table).stdout
    (read_now,) = parse_table(table.read_text(encoding="utf-8"), "table.json").advisories
    assert read_now.source.startswith("record of CVE-2026-53359")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("fixed =", "repaired ="), "a column that is not known"),
        (('"5.10.28"', '"5.10.x"'), "should be a version of the kernel"),
        (("CVE-2021-29657", "CVE-2026-1234"), ""),
        (('mainline = "5.12"\n', ""), "too few or too many: ['mainline']"),
        (("[[advisory]]", "[[advice]]"), "where only '[[advisory]]' should be"),
        (("[[advisory]]", "[[advisory"), "is no TOML"),
        (('id = "CVE-2026-53359"', 'id = "CVE-2026-99999"'), "There is no record of CVE-2026-99999"),
        (('id = "CVE-2026-53359"', 'id = "CVE-2022-3344"'), "has no versions that can be compared"),
    ],
)
def test_the_script_ends_with_a_sentence_and_2_when_source_or_records_are_wrong(
    change: tuple[str, str], said: str, tmp_path: Path
) -> None:
    source, table = tmp_path / "source.toml", tmp_path / "table.json"
    source.write_text(SOURCE.replace(*change), encoding="utf-8")
    ended = script(RECORDS, "--source", source, "--table", table)
    if not said:  # a row that is kept by hand needs no record
        assert ended.returncode == 0
        return
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not table.exists()


def test_records_are_found_in_the_tree_of_cvelistv5(tmp_path: Path) -> None:
    place = tmp_path / "cves/2026/53xxx"
    place.mkdir(parents=True)
    shutil.copy(RECORDS / f"{JANUSCAPE}.json", place)
    assert find_record(JANUSCAPE, tmp_path) == find_record(JANUSCAPE, tmp_path / "cves") == place / f"{JANUSCAPE}.json"


def test_the_source_names_the_cves_of_the_table() -> None:
    assert {row["id"] for row in read_source(TABLE.with_name("source.toml"))} == set(ADVISORIES)


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_source(tmp_path / "none.toml")


def test_what_is_gone_is_told(tmp_path: Path) -> None:
    source = tmp_path / "source.toml"
    source.write_text(SOURCE, encoding="utf-8")
    made = make_table(read_source(source), RECORDS, "2026-11-25")
    assert "CVE-2026-64561: gone" in list(describe_changes(load_advisories(), made))
