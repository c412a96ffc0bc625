"""Find a machine's keys in files of known hosts: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".

paramiko reads these files, too, but leaves out patterns, takes one key of a kind for all, and overlooks '@revoked'.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_HASHED = "|1|"  # then a salt and the name's HMAC-SHA1, each in base64


class Marker(StrEnum):
    """What a line's first word makes of its key."""

    NONE = ""
    AUTHORITY = "@cert-authority"
    REVOKED = "@revoked"


@dataclass(frozen=True, kw_only=True)
class KnownKey:
    """A key of a line whose names match; `kind` is its type's name, 'ssh-ed25519', `blob` what is compared."""

    marker: Marker
    kind: str
    blob: bytes

    @property
    def title(self) -> str:
        """The key as `ssh-keygen -l` writes it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        return f"{self.kind} SHA256:{digest}"


def find_keys(files: Iterable[Path], name: str) -> tuple[KnownKey, ...]:
    """Return the keys of a name, as it stands there: 'host', or '[host]:port'. What cannot be read is passed over."""
    return tuple(key for file in files for line in _read_lines(file) if (key := _match(line, name.lower())))


def _read_lines(file: Path) -> Iterator[str]:
    try:
        yield from file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return


def _match(line: str, name: str) -> KnownKey | None:
    words = line.split()
    marker = Marker.NONE
    if words and words[0].startswith("@"):
        if words[0] not in list(Marker):
            return None
        marker = Marker(words.pop(0))
    if len(words) < 3 or words[0].startswith("#") or not _is_named(words[0], name):
        return None
    try:
        blob = base64.b64decode(words[2], validate=True)
    except (binascii.Error, ValueError):
        return None
    return KnownKey(marker=marker, kind=words[1], blob=blob)


def _is_named(names: str, name: str) -> bool:
    """Say whether a name is among those of a line; one that a '!' stands before is not, whatever else matches."""
    if names.startswith(_HASHED):
        return _is_hash_of(names, name)
    found = False
    for pattern in names.lower().split(","):
        if _is_like(pattern.removeprefix("!"), name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in hashed.removeprefix(_HASHED).split("|"))
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), "sha1").digest(), digest)


def _is_like(pattern: str, name: str) -> bool:
    """Match as OpenSSH does: '*' is any text, '?' one character, and brackets are those around a name with a port."""
    parts = {"*": ".*", "?": "."}
    return bool(re.fullmatch("".join(parts.get(letter) or re.escape(letter) for letter in pattern), name))
