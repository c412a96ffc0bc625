"""The keys of a lab: one that logs in everywhere, and every guest's host key, known before the guest exists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from nestctl.adapters.files import write_atomically
from nestctl.errors import FailedError
from nestctl.lab.store import lab_directory


@dataclass(frozen=True, kw_only=True, repr=False)
class KeyPair:
    """An Ed25519 key pair as OpenSSH texts. Its private part is in no log: it has no repr."""

    private: str
    public: str


@dataclass(frozen=True, kw_only=True, repr=False)
class LabKeys:
    client: KeyPair
    hosts: Mapping[str, KeyPair]


def ensure_keys(path: Path, guests: Iterable[str]) -> LabKeys:
    """Read the lab's keys, making those that are missing. The file has mode 0600."""
    there = read_keys(path) if path.exists() else LabKeys(client=_generate(), hosts={})
    wanted = set(guests)
    if path.exists() and wanted <= set(there.hosts):
        return there
    hosts = {**there.hosts, **{guest: _generate() for guest in sorted(wanted - set(there.hosts))}}
    keys = LabKeys(client=there.client, hosts=hosts)
    write_atomically(path, json.dumps(asdict(keys)).encode(), mode=0o600)
    return keys


def find_keys(lab: str) -> LabKeys | None:
    """Find the keys of a lab, if it has some. Raises `FailedError` when they are damaged."""
    path = lab_directory(lab) / "keys.json"
    return read_keys(path) if path.exists() else None


def read_keys(path: Path) -> LabKeys:
    """Read the lab's keys. Raises `FailedError` when the file is not there or is damaged."""
    try:
        document = json.loads(path.read_text())
        return LabKeys(
            client=KeyPair(**document["client"]),
            hosts={name: KeyPair(**pair) for name, pair in document["hosts"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FailedError(
            f"The lab's keys in '{path}' cannot be read: {error!r}.",
            hint="Remove the lab with 'nestctl down' and bring it up again.",
        ) from error


def _generate() -> KeyPair:
    key = Ed25519PrivateKey.generate()
    return KeyPair(
        private=key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode(),
        public=key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
    )
