"""Make an image of a vendor's disk image: fetched, compared with its checksum, looked into, and made anew."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import re
import shutil
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nestctl.adapters.files import write_atomically
from nestctl.adapters.http import check_url, is_url
from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.errors import CommandError, FailedError, PrerequisiteError, UsageError
from nestctl.image.checksums import Checksum, find_checksum, name_of, parse_checksum
from nestctl.image.disk import HEAD_BYTES, find_firmware, parse_format, parse_virtual_bytes
from nestctl.image.download import Partial, Progress, fetch, lock_download, read_small, remove_download
from nestctl.image.store import (
    IMPORTED_DISK,
    Image,
    Manifest,
    Source,
    digest_file,
    images_directory,
    list_images,
    lock_store,
    render_manifest,
)

TITLE_PATTERN = r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?"

# Another nestctl may be fetching the same image, over a slow line.
_WAIT_TIMEOUT_S = 6 * 3600.0
_CONVERT_TIMEOUT_S = 3600.0

_SUFFIXES = re.compile(r"(\.(qcow2|qcow|img|raw|disk|xz|gz|bz2))+$", re.IGNORECASE)
_UNPACKERS: dict[str, Callable[[Path], AbstractContextManager[Any]]] = {
    "gzip": gzip.GzipFile,
    "xz": lzma.LZMAFile,
    "bzip2": bz2.BZ2File,
}
_CHUNK = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An image to import: a file's path or a URL, and what says that it is the right one.

    One of `checksum` ('sha256:HEX'), `checksum_file` (a path or URL) and `is_unchecked` is given. `title` is what the
    image is called; when empty, as the file is.
    """

    location: str
    title: str = ""
    checksum: str = ""
    checksum_file: str = ""
    is_unchecked: bool = False


@dataclass(frozen=True, kw_only=True)
class Show:
    """How to tell the user what goes on: a step, and a step that counts bytes."""

    step: Callable[[str], AbstractContextManager[None]]
    progress: Callable[[str], AbstractContextManager[Progress]]


def import_image(wanted: Wanted, show: Show) -> tuple[Image, bool]:
    """Return the image of a vendor's file, and whether it was imported now. It appears whole or not at all.

    Raises `UsageError` for what cannot be imported, `FailedError` when the checksum is another one (nothing is kept of
    the file then), `UnreachableError` when it cannot be fetched: what has come stays for the next time.
    """
    if is_url(location := wanted.location):
        check_url(location)
    else:
        location = str(Path(location).absolute())
    title = _choose_title(wanted.title, location)
    expected = _find_expected(wanted, location)
    if expected and (image := _find_imported(title, {str(expected)})):
        return image, False
    waiting = f"Waiting for another nestctl that imports '{location}'"
    with lock_download(location, Deadline.after(_WAIT_TIMEOUT_S, waiting)):
        if expected and (image := _find_imported(title, {str(expected)})):
            return image, False
        with show.progress(f"Fetching {location}") as progress:
            partial = fetch(location, title, progress)
        with show.step("Checking it"):
            digests = _digest(partial.data)
        _check(partial, digests, expected)
        if image := _find_imported(title, set(map(str, digests))):
            remove_download(location)
            return image, False
        try:
            image = _make(partial, digests, wanted, show)
        except UsageError:
            # It is the right file, and no image: fetching it again would not help.
            remove_download(location)
            raise
        remove_download(location)
    return image, True


def _choose_title(given: str, location: str) -> str:
    if given:
        if not re.fullmatch(TITLE_PATTERN, given):
            raise UsageError(
                f"'{given}' is no name of an image: use lower-case letters, digits, dots and dashes.",
                hint="For instance 'debian-12'.",
            )
        return given
    made = re.sub(r"[^a-z0-9._-]+", "-", _SUFFIXES.sub("", name_of(location)).lower()).strip("-._")[:63].strip("-._")
    if not made:
        raise UsageError(f"'{location}' has no name that the image could have.", hint="Give one with '--name'.")
    return made


def _find_expected(wanted: Wanted, location: str) -> Checksum | None:
    given = sum((bool(wanted.checksum), bool(wanted.checksum_file), wanted.is_unchecked))
    if given > 1:
        raise UsageError("'--checksum', '--checksum-file' and '--no-verify' exclude each other.")
    if wanted.checksum:
        return parse_checksum(wanted.checksum)
    if wanted.checksum_file:
        return find_checksum(read_small(wanted.checksum_file), name_of(location), wanted.checksum_file)
    if wanted.is_unchecked:
        return None
    directory = location.rpartition("/")[0]
    raise UsageError(
        "Nothing says what the image's checksum is, so it could be anybody's.",
        hint="Give '--checksum sha256:HEX', or the vendor's list, such as "
        f"'--checksum-file {directory}/SHA256SUMS'. '--no-verify' imports it as it is.",
    )


def _find_imported(title: str, digests: set[str]) -> Image | None:
    images = (it for it in list_images() if it.source and it.source.title == title)
    return next((it for it in images if digests & it.digests), None)


def _check(partial: Partial, digests: tuple[Checksum, ...], expected: Checksum | None) -> None:
    if expected is None or expected in digests:
        return
    seen = next(it for it in digests if it.algorithm == expected.algorithm)
    remove_download(partial.location)
    raise FailedError(
        f"'{partial.location}' is not the image that was wanted: its checksum is {seen}, not {expected}.",
        hint="What was fetched is removed. Is it the checksum of this file? What vendors call 'latest' changes.",
    )


def _digest(path: Path) -> tuple[Checksum, ...]:
    hashes = {"sha256": hashlib.sha256(), "sha512": hashlib.sha512()}
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            for it in hashes.values():
                it.update(chunk)
    return tuple(Checksum(algorithm=name, digest=it.hexdigest()) for name, it in hashes.items())


def _make(partial: Partial, digests: tuple[Checksum, ...], wanted: Wanted, show: Show) -> Image:
    work = partial.directory / "image"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    disk = work / IMPORTED_DISK
    name = name_of(partial.location) or partial.location
    try:
        with show.step(f"Making a disk of {name}"):
            _make_disk(partial.data, disk, name)
        firmware = find_firmware(_read_guest_head(disk, name), name)
        sha256, sha512 = (it.digest for it in digests)
        manifest = Manifest(
            name=f"{partial.title}-{sha256[:12]}",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            sha256={IMPORTED_DISK: digest_file(disk)},
            source=Source(
                title=partial.title,
                location=partial.location,
                sha256=sha256,
                sha512=sha512,
                checked_by=wanted.checksum_file or wanted.checksum,
                firmware=firmware.value,
                virtual_bytes=parse_virtual_bytes(_read_head(disk)),
            ),
        )
        write_atomically(work / "image.json", render_manifest(manifest).encode())
        with lock_store(Deadline.after(_WAIT_TIMEOUT_S, "Waiting for another nestctl that builds an image")):
            work.rename(images_directory() / manifest.name)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Image(directory=images_directory() / manifest.name, manifest=manifest)


def _make_disk(source: Path, disk: Path, name: str) -> None:
    """Make a qcow2 of a file in any format that is taken: one that names no other file, whatever the file did."""
    found = parse_format(_read_head(source), name)
    if found.is_compressed:
        unpacked = disk.with_name("unpacked")
        _unpack(source, unpacked, found.name, name)
        source, found = unpacked, parse_format(_read_head(unpacked), name)
        if found.is_compressed:
            raise UsageError(f"'{name}' is compressed twice.")
    # The formats are said, never guessed: a raw disk may begin like a qcow2 (QEMU, CVE-2008-2004).
    _run_qemu_img(("convert", "-q", "-f", found.name, "-O", "qcow2", str(source), str(disk)), name, disk.parent)
    disk.with_name("unpacked").unlink(missing_ok=True)
    disk.chmod(0o644)


def _read_guest_head(disk: Path, name: str) -> bytes:
    """Read the beginning of a qcow2 as a guest sees it."""
    head = disk.with_name("head")
    words = ("dd", "-f", "qcow2", "-O", "raw", f"bs={HEAD_BYTES}", "count=1", f"if={disk}", f"of={head}")
    _run_qemu_img(words, name, disk.parent)
    content = head.read_bytes()
    head.unlink()
    return content


def _run_qemu_img(words: tuple[str, ...], name: str, directory: Path) -> None:
    deadline = Deadline.after(_CONVERT_TIMEOUT_S, f"Making a disk of '{name}'")
    completed = LocalShell().run(("qemu-img", *words), deadline=deadline)
    if completed.exit_code == 0:
        return
    said = completed.stderr.decode(errors="replace").strip()
    if "No space left" in said:
        raise PrerequisiteError(
            f"No space is left for the disk of '{name}' in '{directory}'.",
            hint="Free some, or set NESTCTL_CACHE to a place that has it. What was fetched stays.",
        )
    raise CommandError(f"'{name}' cannot be read as what it looks like: {said}")


def _unpack(source: Path, target: Path, compression: str, name: str) -> None:
    try:
        with _UNPACKERS[compression](source) as packed, target.open("wb") as file:
            while chunk := packed.read(_CHUNK):
                file.write(chunk)
    except (EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the system's; gzip's and bz2's own have no number
        raise UsageError(f"'{name}' is damaged: it cannot be unpacked ({error}).") from error


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
