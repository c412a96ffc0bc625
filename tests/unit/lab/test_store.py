from __future__ import annotations

import stat
from pathlib import Path

import pytest

from nestctl.errors import DeadlineError, LabFileError, UsageError
from nestctl.lab.store import (
    find_lab,
    find_lab_name,
    forget_lab,
    keep_lab,
    lab_directory,
    list_labs,
    lock_lab,
    read_boots,
    record_boot,
)
from nestctl.paths import state_directory
from tests.builders import lab_of_depth

FILE = "name: filed\nguests: {g1: {}}\n"


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bring_up(name: str, depth: int = 2) -> Path:
    """Leave behind what `up` does, as far as the store is concerned."""
    directory = keep_lab(lab_of_depth(depth, name))
    (directory / "ssh_config").touch()
    return directory


def test_by_default_it_is_the_file_in_the_working_directory() -> None:
    Path("lab.yaml").write_text(FILE)
    assert find_lab(None).name == "filed"


def test_without_one_it_is_said_how_to_get_one() -> None:
    with pytest.raises(UsageError) as raised:
        find_lab(None)
    assert "nestctl init" in raised.value.hint


@pytest.mark.parametrize("reference", ["my.yaml", "./my.yaml", "my.yml", "plain"])
def test_a_file_is_found_by_its_path(reference: str) -> None:
    Path(reference).write_text(FILE)
    assert find_lab(reference).name == "filed"


def test_a_lab_that_was_brought_up_is_found_by_its_name() -> None:
    bring_up("demo")
    assert find_lab("demo") == lab_of_depth(2, "demo")


def test_a_file_goes_before_a_lab_of_that_name() -> None:
    bring_up("demo")
    Path("demo").write_text(FILE)
    assert find_lab("demo").name == "filed"


def test_an_unknown_name_is_said_with_those_that_are_there() -> None:
    bring_up("demo")
    bring_up("other")
    with pytest.raises(UsageError, match="no lab 'nothing'; labs that exist: 'demo', 'other'"):
        find_lab("nothing")


@pytest.mark.parametrize("reference", ["..", "a/../../b", "", "."])
def test_a_reference_cannot_lead_out_of_the_store(reference: str) -> None:
    bring_up("demo")
    with pytest.raises(UsageError):
        find_lab(reference)


def test_a_lab_can_be_removed_by_name_when_its_file_is_gone() -> None:
    (bring_up("demo") / "lab.yaml").unlink()
    assert find_lab_name("demo") == "demo"


def test_a_wrong_file_is_not_taken_for_a_name() -> None:
    Path("lab.yaml").write_text("name: demo\n")
    with pytest.raises(LabFileError):
        find_lab_name("lab.yaml")
    with pytest.raises(UsageError):
        find_lab_name("nothing")


def test_a_kept_lab_can_be_passed_through_but_not_looked_into() -> None:
    directory = keep_lab(lab_of_depth(2))
    for path in (state_directory(), directory.parent, directory):
        assert stat.S_IMODE(path.stat().st_mode) == 0o711
    assert [path.name for path in directory.iterdir()] == ["lab.yaml"]
    assert stat.S_IMODE((directory / "lab.yaml").stat().st_mode) == 0o600


def test_nothing_is_left_of_a_forgotten_lab() -> None:
    keep_lab(lab_of_depth(2))
    forget_lab("demo")
    assert not state_directory().exists()
    forget_lab("demo")


def test_another_lab_stays_when_one_is_forgotten() -> None:
    keep_lab(lab_of_depth(2, "other"))
    keep_lab(lab_of_depth(2, "demo"))
    forget_lab("demo")
    assert list_labs() == ("other",)


def test_one_at_a_time_changes_a_lab() -> None:
    with (
        lock_lab("demo", 5),
        pytest.raises(
            DeadlineError, match=r"Waiting for another nestctl at work on 'demo' did not happen within 0\.1 s\."
        ),
        lock_lab("demo", 0.1),
    ):
        pytest.fail("two hold the lock")


def test_labs_do_not_wait_for_each_other() -> None:
    with lock_lab("demo", 5), lock_lab("other", 5):
        assert list_labs() == ()


def test_boots_are_noted_by_guest() -> None:
    keep_lab(lab_of_depth(2))
    record_boot("demo", "l1", 1.5)
    record_boot("demo", "l2", 2.5)
    record_boot("demo", "l1", 3.5)
    assert read_boots("demo") == {"l1": [1.5, 3.5], "l2": [2.5]}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"l1": 1}', '{"l1": ["x"]}', "null"])
def test_damaged_boots_are_none(content: str) -> None:
    keep_lab(lab_of_depth(2))
    (lab_directory("demo") / "boots.json").write_text(content)
    assert read_boots("demo") == {}
