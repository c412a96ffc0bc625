"""A machine is recorded, and judged from the recording as it was judged itself."""

from __future__ import annotations

import io
import json
import os
import pwd
import re
import socket
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from nestctl.check import check_recording, check_this_machine
from nestctl.check.recording import describe_contents, outline, read_recording, write_recording
from nestctl.check.report import Report, render_json
from nestctl.errors import UsageError
from tests.unit.cli.run import nestctl


@pytest.fixture(scope="module")
def report() -> Report:
    return check_this_machine(record=True)


@pytest.fixture
def recording(report: Report, tmp_path: Path) -> Path:
    path = tmp_path / "machine.tar.gz"
    write_recording(path, report.collected, report.assessment)
    return path


def test_this_machine_is_judged_the_same_from_its_recording(report: Report, recording: Path) -> None:
    again = check_recording(recording)
    assert again.assessment == report.assessment
    assert render_json(again) == render_json(report)


def test_an_unpacked_recording_is_judged_the_same_and_has_the_form_of_tests_hosts(
    report: Report, recording: Path, tmp_path: Path
) -> None:
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xzf", recording, "-C", tmp_path / "unpacked"], check=True)
    (machine,) = (tmp_path / "unpacked").iterdir()
    assert {"expected.json", "probe.json", "root"} == {path.name for path in machine.iterdir()}
    assert outline(check_recording(machine).assessment) == json.loads((machine / "expected.json").read_text())
    assert check_recording(machine).assessment == report.assessment


def test_a_recording_names_nobody(recording: Path) -> None:
    with tarfile.open(recording) as archive:
        members = archive.getmembers()
        text = "\n".join(
            file.read().decode("utf-8", "replace") for member in members if (file := archive.extractfile(member))
        )
    assert {(member.uname, member.uid, member.mtime) for member in members} == {("", 0, 0)}
    # As a word of its own: a machine that is called 'vm' is not named by 'kvm-vm'.
    assert not re.search(rf"(?<![\w-]){re.escape(socket.gethostname())}(?![\w-])", text)
    people = {user.pw_name for user in pwd.getpwall() if user.pw_uid >= 1000 and user.pw_name != "nobody"}
    assert not [name for name in people if re.search(rf"\b{re.escape(name)}\b", text)]
    assert not re.search(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", text, re.IGNORECASE)  # a UUID
    assert not re.search(r"\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b", text, re.IGNORECASE)  # a MAC address
    assert not re.search(r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b", text)  # an IPv4 address
    assert str(Path.home()) + "/" not in text
    assert f"--pid {os.getpid()}" not in text


def test_recording_the_same_twice_gives_the_same_bytes(report: Report, recording: Path, tmp_path: Path) -> None:
    write_recording(tmp_path / "again.tar.gz", report.collected, report.assessment)
    assert (tmp_path / "again.tar.gz").read_bytes() == recording.read_bytes()


def test_the_contents_are_told_by_directory(report: Report, tmp_path: Path) -> None:
    names = write_recording(tmp_path / "x.tar.gz", report.collected, report.assessment)
    lines = describe_contents(names).splitlines()
    assert any(re.match(r"  /proc: .*cpuinfo.*meminfo", line) for line in lines)


def test_a_tree_without_answers_is_judged_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nmodel name : A CPU\nflags : vmx\n")
    document = render_json(check_recording(tmp_path))
    assert document["facts"]["host"]["cpu_model"] == {"value": "A CPU"}
    assert document["verdict"] == "unknown"


def test_links_out_of_a_recording_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("")
    (tmp_path / "proc/cpuinfo").symlink_to("/proc/cpuinfo")
    assert set(read_recording(tmp_path).entries) == {"proc/meminfo"}


def archive_of(path: Path, **files: bytes) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "/").replace("_json", ".json"))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_file_that_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"file' is neither a directory nor a \.tar\.gz\.$"):
        read_recording(path)


@pytest.mark.parametrize("length", [20, -20])
def test_an_archive_that_ends_too_early_is_refused(length: int, tmp_path: Path) -> None:
    path = archive_of(tmp_path / "x.tar.gz", m__probe_json=b"{}")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UsageError, match="cannot be read as a recorded machine: Compressed file ended"):
        read_recording(path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"m__probe_json": b"{"}, "is not JSON"),
        ({"m__probe_json": b"[]"}, "is not a JSON object"),
        ({"m__other": b""}, "is no recorded machine"),
    ],
)
def test_an_archive_of_something_else_is_refused(files: dict[str, bytes], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        read_recording(archive_of(tmp_path / "x.tar.gz", **files))


def test_an_archive_that_would_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too large"):
        read_recording(archive_of(tmp_path / "x.tar.gz", m__probe_json=b"{}", m__root__proc__x=bytes(65 << 20)))


@pytest.mark.parametrize(
    "probe", [{}, {"links": 3, "errors": {"proc": 1}, "empty": [None, "sys"]}, {"kvm": [], "cpuid": 7}]
)
def test_a_probe_that_says_nothing_gives_unknown(probe: dict[str, Any], tmp_path: Path) -> None:
    path = archive_of(tmp_path / "x.tar.gz", m__probe_json=json.dumps(probe).encode())
    assert render_json(check_recording(path))["verdict"] == "unknown"


def test_a_missing_recording_is_an_error_of_usage(tmp_path: Path) -> None:
    completed = nestctl("check", "--root", str(tmp_path / "none"))
    assert (completed.returncode, completed.stdout) == (2, "")
    where = str(tmp_path / "none")
    assert completed.stderr == f"nestctl: '{where}' cannot be read as a recorded machine: No such file or directory.\n"


def test_record_says_what_it_wrote_and_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "machine.tar.gz"
    first, second = nestctl("check", "--record", str(path)), nestctl("check", "--record", str(path))
    assert "/proc: " in first.stderr
    assert "Left out: host names" in first.stderr
    assert second.returncode == 2
    assert "exists already" in second.stderr
    replayed = nestctl("check", "--root", str(path))
    assert (replayed.returncode, replayed.stdout) == (first.returncode, first.stdout)


def test_a_recording_that_cannot_be_written_says_why_and_leaves_nothing(report: Report, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        write_recording(tmp_path / "none" / "x.tar.gz", report.collected, report.assessment)
    assert list(tmp_path.iterdir()) == []


def test_the_running_machine_is_no_recording() -> None:
    with pytest.raises(UsageError, match="is a running machine's own tree"):
        read_recording(Path("/"))


def test_a_recording_cannot_be_recorded(tmp_path: Path) -> None:
    completed = nestctl("check", "--root", str(tmp_path), "--record", str(tmp_path / "x.tar.gz"))
    assert completed.returncode == 2
    assert "exclude each other" in completed.stderr
