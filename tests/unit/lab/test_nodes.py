from __future__ import annotations

from pathlib import Path

import pytest

from nestctl.errors import UsageError
from nestctl.lab.nodes import find_node, find_nodes, list_nodes, list_outermost_made
from nestctl.lab.plan import walk_plans
from nestctl.lab.store import keep_lab, lab_directory
from nestctl.model.adopt import Adopt
from nestctl.model.lab import Guest, Lab
from tests.builders import class_of, lab_of_depth, plans_of

FILE = "name: filed\nguests: {g1: {}}\n"


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bring_up(lab: Lab) -> Path:
    """Leave behind what `up` does, as far as this is concerned."""
    directory = keep_lab(lab)
    (directory / "ssh_config").touch()
    return directory


def test_a_guest_is_found_in_the_file_of_the_working_directory() -> None:
    Path("lab.yaml").write_text("name: demo\nguests: {l1: {}}\n")
    directory = bring_up(lab_of_depth(2))
    bring_up(lab_of_depth(2, "other"))
    found = find_node("l1")
    assert (found.directory, found.name, found.lab) == (directory, "l1", "demo")


def test_a_guest_is_found_in_the_only_lab_there_is() -> None:
    directory = bring_up(lab_of_depth(2))
    assert find_node("l2").directory == directory


def test_a_guest_is_found_by_the_name_of_its_lab() -> None:
    bring_up(lab_of_depth(2))
    other = bring_up(lab_of_depth(2, "other"))
    assert find_node("other/l2").directory == other


def test_a_guest_of_two_labs_needs_a_lab() -> None:
    bring_up(lab_of_depth(2))
    bring_up(lab_of_depth(2, "other"))
    with pytest.raises(UsageError, match="There is no lab file"):
        find_node("l2")


def test_an_unknown_guest_is_said_with_those_that_are_there() -> None:
    bring_up(lab_of_depth(2))
    with pytest.raises(UsageError, match="The lab 'demo' has no guest 'l9'; it has l1, l2"):
        find_node("l9")
    with pytest.raises(UsageError, match="The lab 'demo' has no guest like 'web\\*'; it has l1, l2"):
        find_nodes("demo/web*")


def test_a_guest_of_a_lab_that_is_not_up_cannot_be_reached() -> None:
    Path("lab.yaml").write_text(FILE)
    with pytest.raises(UsageError, match="'filed' is not up"):
        find_node("g1")


def test_one_guest_is_no_pattern() -> None:
    bring_up(lab_of_depth(2))
    with pytest.raises(UsageError, match="'l\\*' is a pattern; name one guest here"):
        find_node("l*")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("class/*", ["ann", "ann-vm", "bob", "bob-vm"]),
        ("*-vm", ["ann-vm", "bob-vm"]),
        ("class/[a]*", ["ann", "ann-vm"]),
        ("class/bo?", ["bob"]),
        ("bob", ["bob"]),
    ],
)
def test_a_pattern_finds_many_each_before_those_inside_it(pattern: str, names: list[str]) -> None:
    bring_up(class_of("ann", "bob"))
    assert [node.name for node in find_nodes(pattern)] == names


def test_a_guest_knows_where_it_is() -> None:
    ann, inner, *_ = list_nodes(class_of("ann", "bob"))
    assert (ann.level, ann.outer, ann.path) == (1, "", ("ann",))
    assert (inner.level, inner.outer, inner.path) == (2, "ann", ("ann", "ann-vm"))


@pytest.mark.parametrize(
    "lab", [lab_of_depth(1), lab_of_depth(4), class_of("ann", "bob")], ids=lambda lab: str(lab.guests)
)
def test_the_console_is_where_the_plan_puts_it(lab: Lab) -> None:
    plans = walk_plans(plans_of(lab, directory=lab_directory(lab.name)))
    assert [node.console for node in list_nodes(lab)] == [plan.console for plan in plans]


def test_the_outermost_that_nestctl_made_are_those_of_this_machine_and_those_in_what_was_adopted() -> None:
    deep = Guest(memory_mib=4096, guests={"b": Guest(memory_mib=2048, guests={"c": Guest(memory_mib=512)})})
    lab = Lab(
        name="demo",
        guests={
            "a": deep,
            "hv": Guest(
                adopt=Adopt(domain="hv1", ssh="hv"), guests={"vm": Guest(memory_mib=2048, guests={"in": Guest()})}
            ),
        },
    )
    assert [node.name for node in list_outermost_made(list_nodes(lab))] == ["a", "vm"]
