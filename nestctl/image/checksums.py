"""The checksum of a file, as it is given on the command line or in a vendor's list of checksums. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from nestctl.errors import UsageError

# By the number of hexadecimal digits. MD5 and SHA-1 prove nothing any more.
_BY_LENGTH = {64: "sha256", 128: "sha512"}
ALGORITHMS = tuple(_BY_LENGTH.values())

_HEX = r"[0-9A-Fa-f]+"
_GNU = re.compile(rf"\\?({_HEX})[ \t][ *]?(\S.*)")  # sha256sum(1); one that escapes a name begins with a backslash
_BSD = re.compile(rf"(SHA-?256|SHA-?512)\s*\((.+)\)\s*=\s*({_HEX})", re.IGNORECASE)  # sha256sum --tag; Fedora's
_BARE = re.compile(_HEX)


@dataclass(frozen=True, kw_only=True)
class Checksum:
    """A digest in lower-case hexadecimal digits, and its algorithm: 'sha256' or 'sha512'."""

    algorithm: str
    digest: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"


def parse_checksum(text: str) -> Checksum:
    """Parse 'sha256:HEX' or 'sha512:HEX'. Raises `UsageError` for anything else."""
    algorithm, _, digest = text.strip().partition(":")
    if _BY_LENGTH.get(len(digest)) != algorithm.lower() or not _BARE.fullmatch(digest):
        raise UsageError(
            f"'{text[:80]}' is no checksum: it is 'sha256:' and 64 hexadecimal digits, or 'sha512:' and 128."
        )
    return Checksum(algorithm=algorithm.lower(), digest=digest.lower())


def find_checksum(text: str, name: str, source: str) -> Checksum:
    """Find the checksum of the file `name` in a vendor's list; `source` is how errors call the list.

    GNU's and BSD's format, signed or not (a signature is not checked), and a file that has nothing but one checksum.
    Of several the strongest is taken. Raises `UsageError` when there is none, or two that contradict each other.
    """
    listed = list(parse_checksums(text))
    found = {checksum for listed_name, checksum in listed if listed_name in {name, ""}}
    if not found:
        names = sorted({it for it, _ in listed})
        there = f"; it has {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}" if names else ""
        raise UsageError(
            f"'{source}' has no SHA-256 or SHA-512 of '{name}'{there}.",
            hint="Give the list that belongs to this image, or the checksum itself with '--checksum'.",
        )
    strongest = max(found, key=lambda it: len(it.digest))
    if sum(it.algorithm == strongest.algorithm for it in found) > 1:
        raise UsageError(f"'{source}' has two different checksums of '{name}'.")
    return strongest


def parse_checksums(text: str) -> Iterator[tuple[str, Checksum]]:
    """Yield the names (without directories) and checksums of a list; the name is empty where only a digest stands.

    Lines of any other kind, as signatures and comments have them, are passed over.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if found := _BSD.fullmatch(line):
            name, digest = found[2], found[3]
            if _BY_LENGTH.get(len(digest)) != found[1].lower().replace("-", ""):
                continue
        elif found := _GNU.fullmatch(line):
            name, digest = found[2], found[1]
        elif len(lines) == 1 and _BARE.fullmatch(line):
            name, digest = "", line
        else:
            continue
        if algorithm := _BY_LENGTH.get(len(digest)):
            yield PurePosixPath(name).name, Checksum(algorithm=algorithm, digest=digest.lower())


def name_of(source: str) -> str:
    """Return the name of the file that a path or URL leads to; empty when it leads to none."""
    path = unquote(urlsplit(source).path) if "://" in source else source
    return "" if path.endswith("/") else PurePosixPath(path).name
