"""The images that are there: one directory each, complete or absent, checked before use.

images/debian-bookworm-0123456789ab/   disk.raw  vmlinuz  initrd  image.json
images/.build-...                      a build that goes on, or was killed: the next build removes it
images/.lock                           held (flock) by the one process that builds or removes
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nestctl.adapters.files import hold_lock, write_atomically
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, PrerequisiteError, UsageError
from nestctl.paths import cache_directory

SCHEMA = "nestctl.image/1"
FILES = ("disk.raw", "vmlinuz", "initrd")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What image.json says: how the image was made, and the SHA-256 of each of its files."""

    name: str
    recipe_digest: str
    created: str
    sha256: Mapping[str, str]
    recipe: Mapping[str, Any]
    packages: Mapping[str, str]
    schema: str = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image in the store. Its files must not be changed: guests' disks are overlays on them."""

    directory: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def disk(self) -> Path:
        return self.directory / "disk.raw"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd"

    @property
    def allocated_bytes(self) -> int:
        """Bytes on disk: the file is sparse."""
        return sum((self.directory / name).stat().st_blocks * 512 for name in FILES)

    @property
    def digest(self) -> str:
        """SHA-256 of the disk."""
        return self.manifest.sha256["disk.raw"]


def images_directory() -> Path:
    return cache_directory() / "images"


def list_images() -> tuple[Image, ...]:
    """All complete images, by name. A directory that has no readable manifest is no image."""
    if not images_directory().is_dir():
        return ()
    paths = sorted(path for path in images_directory().iterdir() if not path.name.startswith("."))
    return tuple(image for path in paths if (image := _read_image(path)) is not None)


def find_image(name: str) -> Image:
    """Find an image by name, or by the beginning of its name or digest. Raises `UsageError` when there is not one."""
    images = list_images()
    found = [image for image in images if name in (image.name, image.manifest.recipe_digest)] or [
        image
        for image in images
        if image.name.startswith(name) or (len(name) >= 6 and image.manifest.recipe_digest.startswith(name))
    ]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"'{image.name}'" for image in found or images) or "none"
    what = f"More than one image is called '{name}...'" if found else f"There is no image '{name}'"
    raise UsageError(f"{what}; there: {there}.", hint="List them with 'nestctl image list'.")


def verify_image(image: Image, *, thoroughly: bool = False) -> None:
    """Check every file of an image against its SHA-256. Raises `FailedError` when one is missing or differs.

    Files that have not been touched since they were last found right (same inode, size and times) are not read
    again unless `thoroughly`. A note of that is left beside them, in '.verified'.
    """
    note = image.directory / ".verified"
    stamp = json.dumps([image.manifest.sha256, [_stamp(image.directory / name) for name in FILES]], sort_keys=True)
    if not thoroughly and note.is_file() and note.read_text() == stamp:
        return
    for name in FILES:
        seen, wanted = digest_file(image.directory / name), image.manifest.sha256.get(name)
        if seen != wanted:
            raise FailedError(
                f"'{image.directory / name}' is damaged: its SHA-256 is {seen[:16]}..., not {str(wanted)[:16]}....",
                hint=f"Remove it with 'nestctl image rm {image.name}' and build it again with 'nestctl image build'.",
            )
    with suppress(OSError):
        write_atomically(note, stamp.encode())


def remove_image(image: Image, *, deadline: Deadline) -> None:
    """Remove an image; guests whose disks are overlays on it will not start again."""
    with lock_store(deadline):
        # Renamed first, so that an image is never half there.
        doomed = image.directory.with_name(f".removed-{image.name}-{os.getpid()}")
        image.directory.rename(doomed)
        shutil.rmtree(doomed)


def lock_store(deadline: Deadline) -> AbstractContextManager[None]:
    """Be the only process that builds or removes."""
    return hold_lock(images_directory() / ".lock", deadline)


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content. Raises `FailedError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FailedError(f"'{path}' cannot be read: {error.strerror}.") from error


def render_manifest(manifest: Manifest) -> str:
    return json.dumps(asdict(manifest), indent=2) + "\n"


def parse_manifest(text: str) -> Manifest:
    """Parse image.json. Raises `PrerequisiteError` for anything but this version's schema."""
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA or not re.fullmatch(r"[\w.-]+", document["name"]):
            raise PrerequisiteError(f"An image has the schema '{document['schema']}', not '{SCHEMA}'.")
        if set(document["sha256"]) != set(FILES):
            raise PrerequisiteError(f"An image's manifest has not the SHA-256 of {', '.join(FILES)}.")
        return Manifest(**document)
    except (ValueError, TypeError, KeyError) as error:
        raise PrerequisiteError(f"An image's manifest cannot be read: {error!r}.") from error


def _read_image(directory: Path) -> Image | None:
    try:
        return Image(directory=directory, manifest=parse_manifest((directory / "image.json").read_text()))
    except (OSError, UnicodeDecodeError, PrerequisiteError):
        return None


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
