from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from nestctl.deadline import Deadline
from nestctl.errors import FailedError, PrerequisiteError, UsageError
from nestctl.image.report import render_images
from nestctl.image.store import (
    FILES,
    answers_directory,
    find_image,
    images_directory,
    list_images,
    parse_manifest,
    remove_image,
    render_manifest,
    verify_image,
)
from tests.unit.image.images import RECIPE, put_image

OTHER = replace(RECIPE, release="trixie")


def soon() -> Deadline:
    return Deadline.after(5, "Waiting for the store")


def test_an_empty_store_has_no_images() -> None:
    assert list_images() == ()
    assert not images_directory().exists()


def test_an_image_is_read_as_it_was_written() -> None:
    image = put_image()
    (found,) = list_images()
    assert found.directory == image.directory
    assert parse_manifest(render_manifest(image.manifest)).sha256 == image.manifest.sha256
    assert found.digest == image.manifest.sha256["disk.raw"]


def test_half_an_image_is_none() -> None:
    image = put_image()
    half = images_directory() / ".build-0123-77"
    half.mkdir()
    (half / "image.json").write_text((image.directory / "image.json").read_text())
    (images_directory() / "debian-empty").mkdir()
    (images_directory() / "debian-broken").mkdir()
    (images_directory() / "debian-broken/image.json").write_text("{")
    (images_directory() / "a file").touch()
    assert [it.name for it in list_images()] == [image.name]


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found(name: str) -> None:
    image = put_image()
    verify_image(image)
    content = bytearray((image.directory / name).read_bytes())
    content[-2] ^= 1
    (image.directory / name).write_bytes(content)
    with pytest.raises(FailedError, match=f"{name}' is damaged: its SHA-256 is") as raised:
        verify_image(image)
    assert f"nestctl image rm {image.name}" in raised.value.hint


def test_a_thorough_look_finds_what_the_times_hide() -> None:
    image = put_image()
    verify_image(image)
    before = image.disk.stat()
    content = image.disk.read_bytes()
    image.disk.write_bytes(content.swapcase())
    os.utime(image.disk, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(FailedError, match="damaged"):
        verify_image(image, thoroughly=True)


def test_what_was_found_right_is_not_read_again() -> None:
    """A file that cannot be read any more, and was not touched, shows that nobody reads it."""
    image = put_image()
    verify_image(image)
    note = (image.directory / ".verified").read_text()
    verify_image(image)
    assert (image.directory / ".verified").read_text() == note
    (image.directory / ".verified").unlink()
    verify_image(image)
    assert (image.directory / ".verified").exists()


def test_a_missing_file_is_an_error() -> None:
    image = put_image()
    verify_image(image)
    image.kernel.unlink()
    with pytest.raises(FailedError, match="vmlinuz' cannot be read"):
        verify_image(image)


@pytest.mark.parametrize("length", [8, 16, 20, None])
def test_an_image_is_found_by_the_beginning_of_its_name(length: int | None) -> None:
    image = put_image()
    assert find_image(image.name[:length]).directory == image.directory


@pytest.mark.parametrize("length", [6, 64])
def test_an_image_is_found_by_its_digest(length: int) -> None:
    image = put_image()
    assert find_image(image.manifest.recipe_digest[:length]).directory == image.directory


def test_a_name_of_two_images_is_not_guessed() -> None:
    one, other = put_image(), put_image(OTHER)
    with pytest.raises(UsageError, match=r"More than one image is called 'debian\.\.\.'") as raised:
        find_image("debian")
    assert one.name in raised.value.message
    assert other.name in raised.value.message
    assert find_image("debian-t").name == other.name


def test_an_unknown_image_is_said_with_those_that_are_there() -> None:
    image = put_image()
    with pytest.raises(UsageError, match=f"There is no image 'mine'; there: '{image.name}'"):
        find_image("mine")


def test_no_name_names_no_image() -> None:
    put_image()
    with pytest.raises(UsageError, match="There is no image ''"):
        find_image("")


def test_an_image_is_removed_and_the_other_stays() -> None:
    image, other = put_image(), put_image(OTHER)
    for it in (image, other):
        answers_directory(it.identity).mkdir(parents=True)
        (answers_directory(it.identity) / "kind.xml").write_text("<qemuCaps/>")
    remove_image(image, deadline=soon())
    assert [it.name for it in list_images()] == [other.name]
    assert sorted(path.name for path in images_directory().iterdir()) == [".lock", other.name]
    assert not answers_directory(image.identity).exists()
    assert (answers_directory(other.identity) / "kind.xml").exists()
    remove_image(other, deadline=soon())
    assert not answers_directory(other.identity).parent.exists()


@pytest.mark.parametrize(
    "change",
    [{"schema": "nestctl.image/2"}, {"name": "../x"}, {"name": 5}, {"surprise": 1}, {"sha256": None}, {"sha256": {}}],
)
def test_a_manifest_of_another_kind_is_refused(change: dict[str, object]) -> None:
    document = json.loads(render_manifest(put_image().manifest))
    with pytest.raises(PrerequisiteError):
        parse_manifest(json.dumps({**document, **change}))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '"x"', '{"schema": "nestctl.image/1"}'])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(PrerequisiteError, match="An image's manifest cannot be read"):
        parse_manifest(text)


def test_programs_are_told_everything() -> None:
    image = put_image()
    document = render_images(list_images())
    assert document["schema"] == "nestctl.images/1"
    (listed,) = document["images"]
    assert listed["name"] == image.name
    assert listed["kernel"] == "6.1.27-1"
    assert listed["sha256"].keys() == set(FILES)
    assert listed["allocated_bytes"] == image.allocated_bytes
