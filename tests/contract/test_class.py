"""A class of 500 students with two guests each: libvirt's test driver for this machine, fakes inside its guests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestctl.lab.compare import Action, is_settled, walk_changes
from nestctl.lab.parse import parse_lab
from tests.large_lab import LargeLab, open_large_lab

pytestmark = pytest.mark.slow

STUDENTS = 500
TEXT = """
name: class
guests:
  "{{ row.login }}":
    for_each: class.csv
    memory_mib: 2048
    guests:
      "{{ row.login }}-vm": {count: 2, memory_mib: 512}
"""


@pytest.fixture
def course(tmp_path: Path) -> Iterator[LargeLab]:
    (tmp_path / "class.csv").write_text("login\n" + "".join(f"s{number}\n" for number in range(STUDENTS)))
    with open_large_lab(parse_lab(TEXT, "lab.yaml", directory=tmp_path)) as lab:
        yield lab


def test_all_of_it_is_planned_and_what_is_broken_is_found(course: LargeLab) -> None:
    assert is_settled(course.plan())
    course.hypervisor.connection.lookupByName("class-s7").destroy()
    course.hypervisor.connection.lookupByName("class-s8").destroy()
    course.hypervisor.connection.lookupByName("class-s8").undefine()
    course.access.machines["s9"].hypervisor.remove_domain("class-s9-vm-2")
    changes = {it.name: it.action for it in walk_changes(course.plan())}
    assert len(changes) == 3 * STUDENTS
    assert Counter(changes.values()) == {
        Action.KEEP: 3 * STUDENTS - 7,
        Action.CREATE: 4,
        Action.START: 1,
        Action.UNKNOWN: 2,
    }
    assert (changes["s7"], changes["s8"], changes["s9-vm-2"]) == (Action.START, Action.CREATE, Action.CREATE)
