"""Images in a lab file: what is there, what is wanted of it, and where an error stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestctl.errors import LabFileError
from nestctl.image.store import IMPORTED_DISK, Image, Manifest, Source, digest_file, images_directory, render_manifest
from nestctl.lab.images import check_images, locate_images
from nestctl.lab.parse import parse_lab
from nestctl.model.lab import Lab
from tests.unit.image.images import put_image

SHA256 = "ab" * 32


def put_imported(title: str = "debian-12", sha256: str = SHA256, gib: int = 3) -> Image:
    directory = images_directory() / f"{title}-{sha256[:12]}"
    directory.mkdir(parents=True)
    (directory / IMPORTED_DISK).write_text(title)
    manifest = Manifest(
        name=directory.name,
        created="2026-01-01T00:00:00+00:00",
        sha256={IMPORTED_DISK: digest_file(directory / IMPORTED_DISK)},
        source=Source(
            title=title,
            location=f"https://vendor.example/{title}.qcow2",
            sha256=sha256,
            sha512="cd" * 64,
            checked_by="SHA256SUMS",
            firmware="bios",
            virtual_bytes=gib * 2**30,
        ),
    )
    (directory / "image.json").write_text(render_manifest(manifest))
    return Image(directory=directory, manifest=manifest)


def parse(text: str) -> Lab:
    return parse_lab(text, "lab.yaml", check=check_images)


def refused(text: str) -> LabFileError:
    with pytest.raises(LabFileError) as raised:
        parse(text)
    return raised.value


@pytest.mark.parametrize("reference", ["debian-12", f"debian-12@sha256:{SHA256}", f"debian-12@sha512:{'cd' * 64}"])
def test_an_imported_image_is_named_and_pinned(reference: str) -> None:
    image = put_imported()
    lab = parse(f"name: demo\nimage: {reference}\nguests: {{l1: {{}}}}\n")
    found = locate_images(lab)[reference]
    assert (found.identity, found.firmware) == (SHA256, "bios")
    assert Path(found.directory) == image.directory


def test_a_guest_has_an_image_of_its_own_and_those_inside_inherit_it() -> None:
    put_imported()
    lab = parse("name: demo\nguests:\n  l1:\n    image: debian-12\n    memory_mib: 2048\n    guests:\n      l2: {}\n")
    assert list(locate_images(lab)) == ["", "debian-12"]
    assert lab.guests["l1"].guests["l2"].image == ""


def test_an_image_that_is_not_there_is_said_with_line_key_and_command() -> None:
    put_image()
    error = refused("name: demo\nguests:\n  l1:\n    image: debian-12\n")
    assert error.message.startswith(
        "lab.yaml:4: 'guests.l1.image' cannot be had: there is no image 'debian-12'; there:"
    )
    assert "nestctl image import FILE|URL --name debian-12" in error.hint
    error = refused("name: demo\nimage: mine\nguests: {l1: {}}\n")
    assert error.message.startswith("lab.yaml:2: 'image' cannot be had")


def test_another_digest_is_said_with_the_one_that_is_there() -> None:
    put_imported()
    pin = f"sha256:{'0' * 64}"
    error = refused(f"name: demo\nimage: debian-12@{pin}\nguests: {{l1: {{}}}}\n")
    assert f"it has sha256:{SHA256}, not {pin}" in error.message
    assert f"--name debian-12 --checksum {pin}" in error.hint


def test_an_image_named_for_many_guests_is_said_once() -> None:
    error = refused("name: demo\ndefaults: {image: mine}\nguests:\n  a: {count: 20}\n")
    assert error.message.count("\n") == 0
    assert "lab.yaml:2: 'defaults.image' cannot be had" in error.message


@pytest.mark.parametrize("text", ["debian 12", "x@sha256:12", "x@md5:00", "-x", "x/y"])
def test_what_is_no_image_is_refused(text: str) -> None:
    assert (
        "'image' is no image: write a name" in refused(f"name: demo\nimage: '{text}'\nguests: {{l1: {{}}}}\n").message
    )


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("disk_gib: 2", "lab.yaml:5: 'guests.l1.disk_gib' is less than the 3 GiB that the image 'debian-12' has."),
        ("kernel_args: [quiet]", "lab.yaml:5: 'guests.l1.kernel_args' cannot be given to an imported image"),
    ],
)
def test_what_an_imported_image_cannot_do_is_said(setting: str, said: str) -> None:
    put_imported()
    assert said in refused(f"name: demo\nimage: debian-12\nguests:\n  l1:\n    {setting}\n").message


def test_packages_need_an_imported_image() -> None:
    put_imported()
    text = "name: demo\nimage: {}\nguests:\n  l1:\n    seed:\n      packages: [tmux]\n"
    assert parse(text.format("debian-12")).guests["l1"].seed.packages == ("tmux",)
    error = refused(text.format("built"))
    assert error.message.startswith("lab.yaml:6: 'guests.l1.seed.packages.0' needs an imported image")
    assert "is no package's name" in refused(text.format("debian-12").replace("tmux", "--force")).message
