"""The keys of a lab: one that logs in everywhere, one for each student, and every guest's host key, made before it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from nestctl.adapters.files import write_atomically
from nestctl.errors import FailedError
from nestctl.lab.store import lab_directory
from nestctl.model.lab import Lab, walk_guests


@dataclass(frozen=True, kw_only=True, repr=False)
class KeyPair:
    """An Ed25519 key pair as OpenSSH texts. Its private part is in no log: it has no repr."""

    private: str
    public: str


@dataclass(frozen=True, kw_only=True, repr=False)
class LabKeys:
    """The lab's own key, and host keys by guest.

    A guest of this machine and all inside it may be one student's. `owners` names it by guest, and `students` has the
    key that opens these guests beside the lab's own.
    """

    client: KeyPair
    hosts: Mapping[str, KeyPair]
    owners: Mapping[str, str] = field(default_factory=dict)
    students: Mapping[str, KeyPair] = field(default_factory=dict)

    def clients_of(self, guest: str) -> tuple[KeyPair, ...]:
        """Return the keys that open a guest."""
        owner = self.owners.get(guest, "")
        return (self.client, self.students[owner]) if owner in self.students else (self.client,)


def ensure_lab_keys(path: Path, lab: Lab) -> LabKeys:
    """Have the keys of a lab: of every guest, and of a student for each guest of this machine."""
    owners = {name: top for top, guest in lab.guests.items() for name, _ in walk_guests({top: guest})}
    return ensure_keys(path, owners, owners)


def ensure_keys(path: Path, guests: Iterable[str], owners: Mapping[str, str] | None = None) -> LabKeys:
    """Read keys, making those that are missing; `owners` as in `LabKeys`. The file has mode 0600."""
    there = read_keys(path) if path.exists() else LabKeys(client=_generate(), hosts={})
    owners, wanted = owners or {}, set(guests)
    students = set(owners.values())
    if path.exists() and wanted <= set(there.hosts) and students <= set(there.students):
        return there
    keys = LabKeys(
        client=there.client,
        hosts={**there.hosts, **{guest: _generate() for guest in sorted(wanted - set(there.hosts))}},
        owners={**there.owners, **owners},
        students={**there.students, **{name: _generate() for name in sorted(students - set(there.students))}},
    )
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
            owners={str(name): str(owner) for name, owner in document.get("owners", {}).items()},
            students={name: KeyPair(**pair) for name, pair in document.get("students", {}).items()},
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
