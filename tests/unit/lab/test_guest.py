"""A guest's files on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nestctl.adapters.libvirt import Domain
from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, HypervisorError
from nestctl.lab.guest import _PLACE_FILES, create_guest, place_files, remove_files
from nestctl.lab.level import Level
from nestctl.lab.seed import render_seed
from tests.builders import lab_of_depth, plan_of_depth, recognizable_keys
from tests.fakes import FakeHypervisor, World
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


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount an image")
@pytest.mark.parametrize(
    ("there", "placed"), [(["vmlinuz"], []), (["initrd", "vmlinuz"], ["abc", "initrd", "vmlinuz"])]
)
def test_an_image_is_not_mounted_any_more_whatever_it_lacks(
    tmp_path: Path, there: list[str], placed: list[str]
) -> None:
    need_program("mkfs.ext4", "e2fsprogs")
    need_program("qemu-img", "qemu-utils")
    (tmp_path / "root/boot").mkdir(parents=True)
    for name in there:
        (tmp_path / "root/boot" / name).write_text(name)
    image = str(tmp_path / "image")
    make = ("mkfs.ext4", "-q", "-d", str(tmp_path / "root"), image, "8M")
    LocalShell().run(make, deadline=Deadline.after(20, "mkfs.ext4")).expect_success()
    kernel = tmp_path / "kernels/abc"
    words = [str(it) for it in (tmp_path / "lab/seed", tmp_path / "lab/disk", image, "1G", kernel, "raw")]
    completed = LocalShell().run(("sh", "-c", _PLACE_FILES, "sh", *words), deadline=Deadline.after(20, "Placing"))
    if "failed to setup loop device" in completed.stderr.decode():
        pytest.skip("no image can be mounted here")
    assert (completed.exit_code == 0) is bool(placed), completed.stderr
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert sorted(path.name for path in kernel.parent.rglob("*")) == placed


def test_what_went_wrong_first_is_what_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    need_program("qemu-img", "qemu-utils")
    (tmp_path / "disk.raw").write_bytes(bytes(1024))

    class Lost(FakeHypervisor):
        def define_domain(self, xml: str) -> None:
            raise HypervisorError("The connection was lost.")

        def find_domain(self, name: str) -> Domain | None:
            raise HypervisorError("There is no connection.")

    level = Level(shell=LocalShell(), hypervisor=Lost("here", World()))
    plan = plan_of_depth(1, directory=str(tmp_path / "lab"), image=str(tmp_path))
    with pytest.raises(HypervisorError, match="was lost"):
        create_guest(level, plan, recognizable_keys(lab_of_depth(1).guests), Deadline.after(20, "Placing files"))
    assert "'l1' could not be removed: There is no connection." in caplog.text


def test_a_missing_image_leaves_no_disk(tmp_path: Path) -> None:
    need_program("qemu-img", "qemu-utils")
    plan = plan_of_depth(1, directory=str(tmp_path / "lab"), image=str(tmp_path / "nowhere"))
    with pytest.raises(FailedError, match="nowhere"):
        place_files(LocalShell(), plan, recognizable_keys(lab_of_depth(1).guests), Deadline.after(20, "Placing files"))
    assert not Path(plan.disk).exists()
