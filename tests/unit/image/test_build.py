"""Building, as far as it goes without building: the command, and what happens when the builder does not do its job.

The builder is a script called 'setpriv' that comes first in PATH; it stands for setpriv and mmdebstrap.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from nestctl.deadline import Deadline
from nestctl.errors import CommandError, DeadlineError, PrerequisiteError
from nestctl.image.build import ensure_image, find_built, render_command
from nestctl.image.store import images_directory, list_images, verify_image
from tests.needs import need_program
from tests.unit.image.images import RECIPE, put_image

BUILDS = 'for name in vmlinuz initrd; do echo "$name" > "$NESTCTL_IMAGE_OUTPUT/$name"; done'

PlaceBuilder = Callable[[str], None]


@pytest.fixture
def place_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlaceBuilder:
    def place(script: str) -> None:
        need_program("debugfs", "e2fsprogs")
        for name, text in (("setpriv", script), ("debugfs", r"printf 'udev\t252\n'")):
            program = tmp_path / name
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return place


def soon() -> Deadline:
    return Deadline.after(20, "Building the image")


def left_behind() -> list[str]:
    return sorted(path.name for path in images_directory().iterdir() if path.name != ".lock")


def test_the_command_names_everything_of_the_recipe() -> None:
    command = render_command(RECIPE, Path("/files/hook.sh"))
    assert command[:5] == ("setpriv", "--pdeathsig", "TERM", "--", "mmdebstrap")
    assert "--architectures=amd64" in command
    assert "--include=udev" in command
    assert '--customize-hook=sh "/files/hook.sh" "$1"' in command
    assert command[-3:] == ("bookworm", "/dev/null", "deb http://mirror.example/debian bookworm main")


def test_an_image_appears_whole_and_is_not_built_twice(place_builder: PlaceBuilder, tmp_path: Path) -> None:
    place_builder(f'echo x >> "{tmp_path}/runs"; {BUILDS}')
    image = ensure_image(RECIPE, deadline=soon())
    verify_image(image, thoroughly=True)
    assert image.disk.stat().st_size == RECIPE.disk_bytes
    assert image.manifest.packages == {"udev": "252"}
    assert image.kernel.read_text() == "vmlinuz\n"
    assert left_behind() == [RECIPE.name]
    assert ensure_image(RECIPE, deadline=soon()).directory == image.directory
    assert (tmp_path / "runs").read_text() == "x\n"


def test_an_image_that_is_there_needs_no_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    image = put_image()
    monkeypatch.setenv("PATH", "/nonexistent")
    assert ensure_image(RECIPE, deadline=soon()).directory == image.directory
    found = find_built(RECIPE)
    assert found
    assert found.directory == image.directory


def test_a_failed_build_leaves_nothing(place_builder: PlaceBuilder) -> None:
    place_builder(f"{BUILDS}; echo 'E: something broke' >&2; exit 1")
    with pytest.raises(CommandError, match="something broke"):
        ensure_image(RECIPE, deadline=soon())
    assert left_behind() == []


def test_a_build_that_takes_too_long_is_ended_and_leaves_nothing(place_builder: PlaceBuilder) -> None:
    place_builder(f"{BUILDS}; exec sleep 600")
    with pytest.raises(DeadlineError):
        ensure_image(RECIPE, deadline=Deadline.after(0.3, "Building the image"))
    assert left_behind() == []


FAILURES: dict[str, tuple[str, type[Exception], str]] = {
    "no space": ("dd: error writing: No space left on device", PrerequisiteError, "no space is left on the device"),
    "no network": ("E: Failed to fetch http://x  Could not resolve 'x'", CommandError, "could not be fetched"),
    "no user namespaces": ("newuidmap: not found", PrerequisiteError, "may not use user namespaces"),
    "no mode": (
        "E: unable to pick chroot mode automatically (use --mode for manual selection)",
        PrerequisiteError,
        "may not use user namespaces",
    ),
    "no unshare": ("unshare: Operation not permitted", PrerequisiteError, "may not use user namespaces"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_that_users_meet_say_what_to_do(place_builder: PlaceBuilder, case: str) -> None:
    said, error, expected = FAILURES[case]
    place_builder(f'echo "{said}" >&2; exit 1')
    with pytest.raises(error, match=expected) as raised:
        ensure_image(RECIPE, deadline=soon())
    assert getattr(raised.value, "hint", "")


def test_what_killed_builds_left_is_removed_by_the_next(place_builder: PlaceBuilder) -> None:
    place_builder(BUILDS)
    for name in (".build-0123456789ab-77", ".removed-debian-x-78"):
        (images_directory() / name / "sub").mkdir(parents=True)
        (images_directory() / name / "sub/file").touch()
    ensure_image(RECIPE, deadline=soon())
    assert left_behind() == [RECIPE.name]
    assert len(list_images()) == 1


def test_too_little_space_is_said_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("TMPDIR", "/proc")  # a file system with no byte free
    with pytest.raises(PrerequisiteError, match=r"'/proc' has 0\.0 GB free; building an image takes") as raised:
        ensure_image(RECIPE, deadline=soon())
    assert "NESTCTL_CACHE" in raised.value.hint
    assert left_behind() == []


def test_a_missing_builder_is_a_prerequisite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(PrerequisiteError, match="is not installed on this machine"):
        ensure_image(RECIPE, deadline=soon())
    assert left_behind() == []
