"""The images that are there: one directory each, complete or absent, checked before use.

images/debian-bookworm-0123456789ab/   disk.raw  vmlinuz  initrd  image.json      one that was built
images/debian-12-0123456789ab/         disk.qcow2  image.json                     one that was imported
images/.build-...                      a build that goes on, or was killed: the next build removes it
images/.lock                           held (flock) by the one process that builds or removes
qemu-answers/0123456789ab/             what libvirt learnt in guests of the image whose identity begins so
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nestctl.adapters.files import hold_lock, write_atomically
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, PrerequisiteError, UsageError
from nestctl.paths import cache_directory

SCHEMA = "nestctl.image/1"
FILES = ("disk.raw", "vmlinuz", "initrd")

# An imported image stays in a container: attached to a hypervisor, a raw one would show the same partitions as the
# disk that is made from it, and the guest could boot from either.
IMPORTED_DISK = "disk.qcow2"

# NAME, or NAME@sha256:HEX as container images are pinned.
_REFERENCE = re.compile(r"([^@]+)(?:@(.+))?")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where an imported image is from.

    `title` is what it was called, `location` the file or URL, `sha256` and `sha512` are of that file as the vendor has
    it. `checked_by` is what its checksum was compared with; empty when the user wanted no comparison. `firmware`
    ('bios' or 'efi') starts it, and its disk is `virtual_bytes` long.
    """

    title: str
    location: str
    sha256: str
    sha512: str
    checked_by: str
    firmware: str
    virtual_bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What image.json says: how the image was made or where it is from, and the SHA-256 of each of its files."""

    name: str
    created: str
    sha256: Mapping[str, str]
    recipe_digest: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    source: Source | None = None
    schema: str = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image in the store. Its files must not be changed: guests' disks are overlays on them."""

    directory: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """Its name among the images, which is also that of its directory."""
        return self.manifest.name

    @property
    def source(self) -> Source | None:
        """Where it is from; None for one that was built here."""
        return self.manifest.source

    @property
    def identity(self) -> str:
        """What decides what is in it, 64 hexadecimal digits: the digest of its recipe, or of the file it is from."""
        return self.source.sha256 if self.source else self.manifest.recipe_digest

    @property
    def disk(self) -> Path:
        """Its disk: raw where it was built here, qcow2 where it was imported."""
        return self.directory / (IMPORTED_DISK if self.source else "disk.raw")

    @property
    def kernel(self) -> Path:
        """The kernel that guests of a built image boot; an imported one has it inside."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initrd that belongs to `kernel`."""
        return self.directory / "initrd"

    @property
    def allocated_bytes(self) -> int:
        """Bytes on disk: the file is sparse."""
        return sum((self.directory / name).stat().st_blocks * 512 for name in self.manifest.sha256)

    @property
    def digest(self) -> str:
        """SHA-256 of the disk."""
        return self.manifest.sha256[self.disk.name]

    @property
    def digests(self) -> frozenset[str]:
        """The digests by which a lab file may pin it: those of the vendor's file, or of the disk that was built."""
        if self.source:
            return frozenset({f"sha256:{self.source.sha256}", f"sha512:{self.source.sha512}"})
        return frozenset({f"sha256:{self.digest}"})


def images_directory() -> Path:
    """Return the directory of all images; it need not be there."""
    return cache_directory() / "images"


def answers_directory(identity: str) -> Path:
    """Return the directory for what the libvirt of guests of an image has learnt (see nestctl.lab.qemu_answers)."""
    return cache_directory() / "qemu-answers" / identity[:12]


def list_images() -> tuple[Image, ...]:
    """All complete images, by name. A directory that has no readable manifest is no image."""
    if not images_directory().is_dir():
        return ()
    paths = sorted(path for path in images_directory().iterdir() if not path.name.startswith("."))
    return tuple(image for path in paths if (image := _read_image(path)) is not None)


def find_image(name: str) -> Image:
    """Find an image by name, or by the beginning of its name or digest. Raises `UsageError` when there is not one."""
    found = _match(name, list_images())
    if len(found) == 1:
        return found[0]
    raise _not_one(name, found)


def resolve_image(reference: str) -> Image:
    """Find the image that a lab file means by 'NAME' or 'NAME@sha256:HEX'.

    Of several imported ones that are called exactly so it is the one that was imported last, as with a container's tag.
    Raises `UsageError` when there is none, or none with this digest.
    """
    parsed = _REFERENCE.fullmatch(reference)
    name, pin = (parsed[1], parsed[2]) if parsed else (reference, None)
    called = [image for image in list_images() if image.source and image.source.title == name]
    found = sorted(called, key=lambda it: it.manifest.created) or _match(name, list_images())
    if pin is not None:
        if found and not any(pin.lower() in image.digests for image in found):
            there = ", ".join(sorted(it for image in found for it in image.digests if it.startswith("sha256:")))
            raise UsageError(
                f"The image '{name}' is not the one that is wanted: it has {there}, not {pin}.",
                hint=_import_hint(name, pin),
            )
        found = [image for image in found if pin.lower() in image.digests]
    if len(found) == 1 or (called and found):
        return found[-1]
    error = _not_one(name, found)
    raise UsageError(error.message, hint=error.hint if found else _import_hint(name, pin or "sha256:..."))


def _import_hint(name: str, checksum: str) -> str:
    return f"Import it: nestctl image import FILE|URL --name {name} --checksum {checksum}"


def _match(name: str, images: Iterable[Image]) -> list[Image]:
    if not name:
        return []
    images = list(images)
    return [image for image in images if name in (image.name, image.identity)] or [
        image for image in images if image.name.startswith(name) or (len(name) >= 6 and image.identity.startswith(name))
    ]


def _not_one(name: str, found: list[Image]) -> UsageError:
    there = ", ".join(f"'{image.name}'" for image in found or list_images()) or "none"
    what = f"More than one image is called '{name}...'" if found else f"There is no image '{name}'"
    return UsageError(f"{what}; there: {there}.", hint="List them with 'nestctl image list'.")


def verify_image(image: Image, *, thoroughly: bool = False) -> None:
    """Check every file of an image against its SHA-256. Raises `FailedError` when one is missing or differs.

    Files that have not been touched since they were last found right (same inode, size and times) are not read
    again unless `thoroughly`. A note of that is left beside them, in '.verified'.
    """
    note = image.directory / ".verified"
    stamp = json.dumps(
        [image.manifest.sha256, [_stamp(image.directory / name) for name in image.manifest.sha256]], sort_keys=True
    )
    if not thoroughly and note.is_file() and note.read_text() == stamp:
        return
    for name, wanted in image.manifest.sha256.items():
        seen = digest_file(image.directory / name)
        if seen != wanted:
            again = "import it again" if image.source else "build it again with 'nestctl image build'"
            raise FailedError(
                f"'{image.directory / name}' is damaged: its SHA-256 is {seen[:16]}..., not {wanted[:16]}....",
                hint=f"Remove it with 'nestctl image rm {image.name}' and {again}.",
            )
    with suppress(OSError):
        write_atomically(note, stamp.encode())


def remove_image(image: Image, *, deadline: Deadline) -> None:
    """Remove an image, and what is kept about it; guests whose disks are overlays on it will not start again."""
    with lock_store(deadline):
        # Renamed first, so that an image is never half there.
        doomed = image.directory.with_name(f".removed-{image.name}-{os.getpid()}")
        image.directory.rename(doomed)
        shutil.rmtree(doomed)
    answers = answers_directory(image.identity)
    if answers.exists():
        shutil.rmtree(answers)
    with suppress(OSError):  # there are others, or it was not there
        answers.parent.rmdir()


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
    """Render image.json, with the schema as its key `schema`."""
    return json.dumps(asdict(manifest), indent=2) + "\n"


def parse_manifest(text: str) -> Manifest:
    """Parse image.json. Raises `PrerequisiteError` for anything but this version's schema."""
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA or not re.fullmatch(r"[\w.-]+", document["name"]):
            raise PrerequisiteError(f"An image has the schema '{document['schema']}', not '{SCHEMA}'.")
        source = Source(**document["source"]) if document.get("source") else None
        files = (IMPORTED_DISK,) if source else FILES
        if set(document["sha256"]) != set(files):
            raise PrerequisiteError(f"An image's manifest has not the SHA-256 of {', '.join(files)}.")
        return Manifest(**{**document, "source": source})
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
