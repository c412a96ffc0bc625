"""Recorded machines: write one from what a collector saw, and judge one as if it were here.

A recording is a directory, or a .tar.gz of one: `root/` with what was read of /proc, /sys and the rest, `probe.json`
with what CPUID, /dev/kvm and the system answered, and `expected.json` with what the check made of it. tests/hosts is
made of them. Nothing is ever unpacked: an archive is read into memory, and links are lines of probe.json.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestctl import __version__
from nestctl.adapters.files import write_named
from nestctl.agent.facts import replay
from nestctl.agent.tree import Entry
from nestctl.check.findings import Assessment
from nestctl.errors import UsageError

MOST_FILES = 50_000
MOST_BYTES = 64 << 20
DIRECTORY = "nestctl-recording"  # what an archive holds
PROBE, EXPECTED, ROOT = "probe.json", "expected.json", "root/"

# Sections of the agent's document that are no files, and stand in probe.json as they are.
SECTIONS = ("system", "cpuid", "kvm")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What probe.json says, and what a `RecordedTree` answers from."""

    probe: Mapping[str, Any]
    entries: Mapping[str, Entry]

    def collect(self) -> dict[str, Any]:
        """Return the document the agent would have printed there."""
        return replay(self.probe, self.entries)


def read_recording(path: Path) -> Recording:
    """Read a directory or .tar.gz. Raises `UsageError` when it is none, or too large to be one."""
    try:
        files = dict(_walk_directory(path) if path.is_dir() else _walk_archive(path))
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"'{path}' cannot be read as a recorded machine: {reason}.") from error
    probe = _parse_probe(path, files.get(PROBE))
    if probe is None and not any(name.startswith(("proc/", "sys/")) for name in files):
        raise UsageError(
            f"'{path}' is no recorded machine: it has no '{PROBE}' and neither 'proc' nor 'sys'.",
            hint="Make one with 'nestctl check --record FILE'.",
        )
    # Without a probe.json, the directory itself is the tree: what only code can find out stays unknown.
    prefix = "" if probe is None else ROOT
    entries: dict[str, Entry] = {
        name[len(prefix) :]: _entry(content) for name, content in files.items() if name.startswith(prefix)
    }
    probe = probe or {}
    entries.update({path: {"link": target} for path, target in _strings(probe.get("links"))})
    entries.update({path: {"error": error} for path, error in _strings(probe.get("errors"))})
    empty = probe.get("empty")
    entries.update({name: {"names": []} for name in empty if isinstance(name, str)} if isinstance(empty, list) else {})
    return Recording(probe=probe, entries=entries)


def _parse_probe(path: Path, content: bytes | None) -> dict[str, Any] | None:
    if content is None:
        return None
    try:
        probe = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"'{path}': '{PROBE}' is not JSON: {error}.") from error
    if not isinstance(probe, dict):
        raise UsageError(f"'{path}': '{PROBE}' is not a JSON object.")
    return probe


def _walk_directory(top: Path) -> Iterator[tuple[str, bytes]]:
    """Yield relative names and contents; links and mounts are not followed, so nothing outside is read."""
    if os.path.ismount(top / "proc"):  # where some files wait for something to happen before they end
        raise UsageError(f"'{top}' is a running machine's own tree.", hint="Leave '--root' out to check this machine.")
    room, count = MOST_BYTES, 0
    for directory, inner, names in os.walk(top):
        inner[:] = [name for name in inner if not os.path.ismount(Path(directory, name))]
        for name in sorted(names):
            file = Path(directory, name)
            if file.is_symlink() or not file.is_file():
                continue
            count += 1
            room -= file.stat().st_size
            _expect_room(top, room, count)
            yield file.relative_to(top).as_posix(), file.read_bytes()


def _walk_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield what `_walk_directory` would, were it unpacked; the one directory around everything is taken off."""
    room, count = MOST_BYTES, 0
    try:
        opened = tarfile.open(path, mode="r:*")  # noqa: SIM115 - closed below, and only its opening is guarded
    except tarfile.ReadError as error:
        raise UsageError(f"'{path}' is neither a directory nor a .tar.gz.") from error
    with opened as archive:
        for member in archive:
            count += 1
            room -= member.size
            _expect_room(path, room, count)
            file = archive.extractfile(member) if member.isreg() else None
            if file is None:
                continue
            name = member.name.removeprefix("./")
            if not name.startswith((PROBE, EXPECTED, ROOT)):
                name = name.partition("/")[2]
            yield name, file.read()


def _expect_room(path: Path, room: int, count: int) -> None:
    if room < 0 or count > MOST_FILES:
        raise UsageError(
            f"'{path}' is too large for a recorded machine: it has more than {MOST_FILES:,} files "
            f"or {MOST_BYTES >> 20} MiB."
        )


def _entry(content: bytes) -> Entry:
    try:
        return {"text": content.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode("ascii")}


def _strings(section: Any) -> Iterator[tuple[str, str]]:
    if isinstance(section, dict):
        yield from ((str(key), value) for key, value in section.items() if isinstance(value, str))


def outline(assessment: Assessment) -> dict[str, Any]:
    """Say what an expected.json says: every verdict, every finding's status, every fix."""
    choice = assessment.choice
    return {
        "verdict": assessment.verdict,
        "exit_code": assessment.verdict.exit_code,
        "answers": {question: answer.verdict for question, answer in assessment.answers.items()},
        "where": assessment.where_am_i.reason,
        "is_emulated": assessment.is_emulated,
        "accelerator": choice.accelerator if choice else None,
        "cpu_feature": choice.cpu_feature if choice else None,
        "findings": {finding.name: finding.status for finding in assessment.findings},
        "fixes": {finding.name: finding.fix for finding in assessment.findings if finding.fix},
    }


def write_recording(path: Path, collected: Mapping[str, Any], assessment: Assessment) -> list[str]:
    """Write a .tar.gz of what was collected with its 'tree', and return the names of the files in it.

    Raises `UsageError` when there is a file of that name already or no such directory, `PrerequisiteError` when the
    system refuses it; nothing half written is left.
    """
    entries: Mapping[str, Entry] = collected["tree"]
    contents = {f"{ROOT}{name}": content for name, entry in entries.items() if (content := _content(entry)) is not None}
    probe = {
        "origin": "recorded",
        "source": f"nestctl {__version__}, check --record",
        "architecture": collected["host"]["architecture"].get("value", ""),
        **{section: collected[section] for section in SECTIONS},
        "links": {name: entry["link"] for name, entry in entries.items() if "link" in entry},
        "errors": {
            name: entry["error"] for name, entry in entries.items() if entry.get("error") not in (None, "ENOENT")
        },
        "empty": [name for name, entry in entries.items() if "names" in entry and not _has_children(name, entries)],
    }
    contents[PROBE] = _dump(probe)
    contents[EXPECTED] = _dump(outline(assessment))
    if path.exists():
        raise UsageError(f"'{path}' exists already.", hint="Name another file; a recording overwrites none.")
    write_named(path, _pack(contents))
    return sorted(contents)


def _content(entry: Entry) -> bytes | None:
    if "text" in entry:
        return str(entry["text"]).encode("utf-8", "surrogatepass")
    if "base64" in entry:
        return base64.b64decode(entry["base64"])
    return b"" if "node" in entry else None


def _has_children(name: str, entries: Mapping[str, Entry]) -> bool:
    return any(other.startswith(f"{name}/") and entry.get("error") != "ENOENT" for other, entry in entries.items())


def _dump(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def _pack(contents: Mapping[str, bytes]) -> bytes:
    """Make an archive that says nothing of who made it and when: equal contents give equal bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for name, content in sorted(contents.items()):
            member = tarfile.TarInfo(f"{DIRECTORY}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def describe_contents(names: list[str]) -> str:
    """Say in lines what a recording holds, the files of a directory together."""
    directories: dict[str, list[str]] = {}
    for name in names:
        if name.startswith(ROOT):
            directory, _, file = name[len(ROOT) :].rpartition("/")
            directories.setdefault(directory, []).append(file)
    return "\n".join(f"  /{directory}: {' '.join(files)}" for directory, files in directories.items())
