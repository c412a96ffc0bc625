"""A guest's files on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.errors import FailedError
from nestctl.lab.guest import place_files, remove_files
from nestctl.lab.seed import render_seed
from tests.builders import lab_of_depth, plan_of_depth, recognizable_keys
from tests.needs import need_program


def test_files_are_placed_whole_and_removed(tmp_path: Path) -> None:
    need_program("qemu-img", "qemu-utils")
    (tmp_path / "disk.raw").write_bytes(bytes(1024))
    plan = plan_of_depth(1, directory=str(tmp_path / "a 'lab'"), image=str(tmp_path))
    keys = recognizable_keys(lab_of_depth(1).guests)
    for _ in range(2):  # it can be repeated
        place_files(LocalShell(), plan, keys, Deadline.after(20, "Placing files"))
    assert Path(plan.seed).read_bytes() == render_seed(plan, keys)
    assert Path(plan.seed).stat().st_mode & 0o777 == 0o600
    assert Path(plan.disk).read_bytes().startswith(b"QFI\xfb")
    assert len(list(Path(plan.place.directory).iterdir())) == 2
    remove_files(LocalShell(), plan.place.directory, plan.name)
    assert list(Path(plan.place.directory).iterdir()) == []
    remove_files(LocalShell(), plan.place.directory, plan.name)


def test_a_missing_image_leaves_no_disk(tmp_path: Path) -> None:
    need_program("qemu-img", "qemu-utils")
    plan = plan_of_depth(1, directory=str(tmp_path / "lab"), image=str(tmp_path / "nowhere"))
    with pytest.raises(FailedError, match="nowhere"):
        place_files(LocalShell(), plan, recognizable_keys(lab_of_depth(1).guests), Deadline.after(20, "Placing files"))
    assert not Path(plan.disk).exists()
