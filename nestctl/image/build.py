"""Build an image from the distribution's packages; an ordinary user can, where the kernel has user namespaces."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from nestctl.adapters.files import write_atomically
from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.errors import CommandError, PrerequisiteError
from nestctl.image.recipe import Recipe
from nestctl.image.store import (
    FILES,
    Image,
    Manifest,
    digest_file,
    images_directory,
    list_images,
    lock_store,
    render_manifest,
)
from nestctl.paths import resource

log = logging.getLogger(__name__)

# What a build writes at its peak: the unpacked root (0.7 GB), its packages (0.2 GB) and the disk (0.65 GB).
_NEEDED_BYTES = 1_700_000_000

_APT_OPTIONS = ('Apt::Install-Recommends "false"', 'Dpkg::Use-Pty "0"', 'Acquire::Retries "3"')
_UNWANTED = (
    *(f"/usr/share/{name}/*" for name in ("doc", "man", "info", "locale", "lintian", "bash-completion")),
    # Of the compiler (100 MB): link-time optimization, and the run-time libraries of its sanitizers.
    "*/lto1", "*-lto-dump-*", "/usr/lib/*san.a", "/usr/lib/*san.so*",
)  # fmt: skip


def find_built(recipe: Recipe) -> Image | None:
    """Find the image that a recipe has already given."""
    return next((image for image in list_images() if image.manifest.recipe_digest == recipe.digest), None)


def ensure_image(recipe: Recipe, *, deadline: Deadline) -> Image:
    """Return the image of a recipe, built now unless it is there. It appears whole or not at all.

    Raises `PrerequisiteError` when a program or disk space is missing, `CommandError` when the build fails.
    """
    if image := find_built(recipe):
        return image
    with lock_store(deadline):
        # Another process may have built it while this one waited.
        if image := find_built(recipe):
            return image
        _remove_leftovers(deadline)
        _check_space(images_directory())
        work = images_directory() / f".build-{recipe.digest[:12]}-{os.getpid()}"
        work.mkdir(mode=0o755)
        try:
            _build(recipe, work, deadline)
            target = images_directory() / recipe.name
            work.rename(target)
        except BaseException:
            _remove_tree(work, deadline)
            raise
    image = find_built(recipe)
    assert image is not None  # noqa: S101 - it was put there a moment ago, under the lock
    return image


def render_command(recipe: Recipe, hook: Path) -> tuple[str, ...]:
    """Render the mmdebstrap command that builds a recipe's root file system and runs the hook in it.

    It dies with its parent (PR_SET_PDEATHSIG): a build whose nestctl was killed does not go on unseen.
    """
    return (
        "setpriv", "--pdeathsig", "TERM", "--",
        "mmdebstrap", "--variant=apt", "--format=null", f"--architectures={recipe.architecture}",
        f"--include={','.join(recipe.packages)}",
        *(f"--aptopt={option}" for option in (*_APT_OPTIONS, *_proxy_options())),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _UNWANTED),
        f'--customize-hook=sh "{hook}" "$1"',
        recipe.release, "/dev/null", *(source.line for source in recipe.sources),
    )  # fmt: skip


def _build(recipe: Recipe, work: Path, deadline: Deadline) -> None:
    files = resource("templates", "image")
    for name in FILES:
        (work / name).touch()
        # In mmdebstrap's user namespace the builder is another account: it may write these files, but not find them.
        (work / name).chmod(0o666)
    os.truncate(work / "disk.raw", recipe.disk_bytes)
    with _open_directory(work) as descriptor:
        environment = {
            "NESTCTL_IMAGE_FILES": str(files),
            "NESTCTL_IMAGE_OUTPUT": f"/proc/self/fd/{descriptor}",
            "LC_ALL": "C.UTF-8",
        }
        command = render_command(recipe, files / "hook.sh")
        completed = LocalShell(environment=environment).run(command, deadline=deadline, descriptors=(descriptor,))
    _explain(completed.stderr.decode(errors="replace"), completed.exit_code)
    completed.expect_success()
    for name in FILES:
        (work / name).chmod(0o644)
    manifest = Manifest(
        name=recipe.name,
        recipe_digest=recipe.digest,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sha256={name: digest_file(work / name) for name in FILES},
        recipe=asdict(recipe),
        packages=_read_packages(work / "disk.raw", deadline),
    )
    write_atomically(work / "image.json", render_manifest(manifest).encode())


@contextmanager
def _open_directory(directory: Path) -> Iterator[int]:
    """Open a directory under a number out of the way: mmdebstrap 1.3 gives its shells one-digit descriptors only."""
    low = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 50)
    os.close(low)
    try:
        yield high
    finally:
        os.close(high)


def _read_packages(disk: Path, deadline: Deadline) -> dict[str, str]:
    """Read the list of packages out of the disk itself, without mounting it (e2fsprogs' debugfs)."""
    command = ("debugfs", "-R", "cat /usr/share/nestctl-packages", str(disk))
    text = LocalShell().run(command, deadline=deadline).expect_success().text
    return dict(sorted(line.split("\t", 1) for line in text.splitlines() if "\t" in line))


def _explain(said: str, exit_code: int) -> None:
    """Raise an error that says what to do, for the failures users meet."""
    if exit_code == 0:
        return
    if "No space left on device" in said:
        raise PrerequisiteError(
            "The image could not be built: no space is left on the device.",
            hint=f"Free some {_NEEDED_BYTES / 1e9:.1f} GB, or set NESTCTL_CACHE and TMPDIR to places that have it.",
        )
    if "Could not resolve" in said or "Temporary failure resolving" in said or "Failed to fetch" in said:
        raise CommandError(
            "The image could not be built: the distribution's packages could not be fetched.\n  "
            + "\n  ".join(line for line in said.splitlines() if line.startswith(("E:", "Err:", "W:")))[-1500:],
            hint="Try 'apt-get update' on this machine; the image is built from the same sources.",
        )
    if missing := re.search(r"hook\.sh: \d+: (\S+): not found", said):
        raise PrerequisiteError(
            f"The image could not be built: the program '{missing[1]}' is not installed on this machine.",
            hint="Run script/setup in a checkout, or install the package that has it.",
        )
    if any(it in said for it in ("newuidmap", "unable to pick chroot mode")) or (
        "unshare" in said and "not permitted" in said.lower()
    ):
        raise PrerequisiteError(
            "The image could not be built: this account may not use user namespaces.",
            hint="Install 'uidmap', give the account a range in /etc/subuid and /etc/subgid, or build as root.",
        )


def _check_space(directory: Path) -> None:
    for place in (directory, Path(os.environ.get("TMPDIR", "/tmp"))):  # noqa: S108 - where mmdebstrap works
        free = shutil.disk_usage(place).free
        if free < _NEEDED_BYTES:
            raise PrerequisiteError(
                f"'{place}' has {free / 1e9:.1f} GB free; building an image takes {_NEEDED_BYTES / 1e9:.1f} GB.",
                hint="Free some space, or set NESTCTL_CACHE and TMPDIR to places that have it.",
            )


def _proxy_options() -> tuple[str, ...]:
    """Carry over the host's apt proxies: mmdebstrap reads none of the host's apt configuration."""
    deadline = Deadline.after(20, "Reading apt's configuration")
    options = []
    for scheme in ("http", "https"):
        completed = LocalShell().run(("apt-config", "shell", "P", f"Acquire::{scheme}::Proxy"), deadline=deadline)
        value = completed.text.removeprefix("P=").strip("'")
        if value:
            options.append(f'Acquire::{scheme}::Proxy "{value}"')
    return tuple(options)


def _remove_leftovers(deadline: Deadline) -> None:
    """Remove what killed builds and removals left; the lock is held, so nobody works there."""
    for path in images_directory().glob(".*-*"):
        if path.is_dir():
            _remove_tree(path, deadline)


def _remove_tree(path: Path, deadline: Deadline) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        # Files of a user namespace belong to accounts that only such a namespace can remove.
        with suppress(PrerequisiteError):
            LocalShell().run(("mmdebstrap", "--unshare-helper", "rm", "-rf", str(path)), deadline=deadline)
    if path.exists():
        log.warning("'%s' could not be removed.", path)
