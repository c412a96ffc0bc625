"""What a guest needs, decided from its plan and what libvirt has; and its files on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nestctl.adapters.libvirt import Domain
from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, UsageError
from nestctl.lab.guest import Action, decide, place_files, remove_files
from nestctl.lab.render import render_domain
from nestctl.lab.seed import render_seed
from tests.builders import lab_of_depth, plan_of_depth, recognizable_keys
from tests.needs import need_program

PLAN = plan_of_depth(2)


def observed(xml: str, *, is_running: bool = False) -> Domain:
    return Domain(name=PLAN.domain, is_running=is_running, xml=xml, live_xml=xml if is_running else "")


def test_a_guest_that_is_not_there_is_created() -> None:
    assert decide(PLAN, None) is Action.CREATE


def test_a_guest_that_is_off_is_started() -> None:
    assert decide(PLAN, observed(render_domain(PLAN))) is Action.START


def test_a_guest_that_runs_is_kept() -> None:
    assert decide(PLAN, observed(render_domain(PLAN), is_running=True)) is Action.KEEP


def test_another_port_is_no_other_guest() -> None:
    moved = replace(PLAN, uplink=replace(PLAN.uplink, port=29_999))
    assert decide(PLAN, observed(render_domain(moved))) is Action.START


def test_other_settings_are_not_changed_behind_the_users_back() -> None:
    with pytest.raises(UsageError, match="'l1' exists with other settings") as raised:
        decide(PLAN, observed(render_domain(replace(PLAN, settings={**PLAN.settings, "cpus": 7})), is_running=True))
    assert "nestctl down demo" in raised.value.hint


@pytest.mark.parametrize(
    "xml",
    ["<domain type='kvm'><name>demo-l1</name></domain>", render_domain(replace(PLAN, lab="other"))],
    ids=["nobody's", "another lab's"],
)
def test_a_domain_of_somebody_else_is_left_alone(xml: str) -> None:
    with pytest.raises(FailedError, match="does not belong to the lab 'demo'"):
        decide(PLAN, observed(xml, is_running=True))


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
    remove_files(LocalShell(), plan)
    assert list(Path(plan.place.directory).iterdir()) == []
    remove_files(LocalShell(), plan)


def test_a_missing_image_leaves_no_disk(tmp_path: Path) -> None:
    need_program("qemu-img", "qemu-utils")
    plan = plan_of_depth(1, directory=str(tmp_path / "lab"), image=str(tmp_path / "nowhere"))
    with pytest.raises(FailedError, match="nowhere"):
        place_files(LocalShell(), plan, recognizable_keys(lab_of_depth(1).guests), Deadline.after(20, "Placing files"))
    assert not Path(plan.disk).exists()
