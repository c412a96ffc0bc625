"""Result files are found by path and by name."""

from pathlib import Path

import pytest

from nestctl.bench.files import find_results, list_results, read_results
from nestctl.errors import UsageError
from nestctl.model.samples import render_results
from tests.unit.bench.builders import record, results


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, created in (("bench-a", "2025-01-01T00:00:00+00:00"), ("bench-b", "2024-01-01T00:00:00+00:00")):
        (tmp_path / f"{name}.json").write_text(render_results(results([record("L0")], [], created=created)))
    (tmp_path / "bench-z.json").write_text("no JSON")
    (tmp_path / "other.json").write_text("{}")
    return tmp_path


def test_the_newest_run_comes_first_and_what_cannot_be_read_last(directory: Path) -> None:
    found = list_results(directory)
    assert [it.path.stem for it in found] == ["bench-a", "bench-b", "bench-z"]
    assert "is no JSON" in found[-1].trouble
    assert find_results(None, directory) == directory / "bench-a.json"


@pytest.mark.parametrize("name", ["b", "bench-b", "bench-b.json", "b.json"])
def test_a_name_is_found_however_much_of_it_is_given(directory: Path, name: str) -> None:
    assert find_results(name, directory) == directory / "bench-b.json"


def test_a_path_goes_before_a_name(directory: Path, tmp_path: Path) -> None:
    assert find_results(str(directory / "other.json"), directory) == directory / "other.json"


def test_what_is_not_there_is_said_with_what_is(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no result file 'c'.*bench-a, bench-b, bench-z"):
        find_results("c", directory)
    with pytest.raises(UsageError, match="There is no result in"):
        find_results(None, tmp_path / "empty")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_results(directory)
