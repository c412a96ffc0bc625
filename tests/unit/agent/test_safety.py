"""What is read of a machine for the question whether it is safe for tenants."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestctl.agent import safety
from nestctl.agent.fact import NotFoundOut
from nestctl.agent.tree import RecordedTree, Tree

KERNEL = "6.1.0-18-amd64"
DEBIAN = "usr/share/doc/linux-image-6.1.0-18-amd64/changelog.Debian.gz"
UBUNTU = "usr/share/doc/linux-modules-5.15.0-91-generic/changelog.Debian.gz"

# Of the form of Debian's changelogs; constructed.
CHANGELOG = b"""linux-signed-amd64 (6.1.76+1) bookworm-security; urgency=high

  * Sign kernel from linux 6.1.76-1
    - KVM: x86: Fix shadow paging use-after-free (CVE-2026-53359, CVE-2026-46113)
    - [x86] KVM: nVMX: another one (CVE-2026-46113)
    - older (CVE-2021-3656)

 -- Someone <someone@example.org>  Thu, 01 Feb 2024 12:05:52 +0100
"""


def in_an_hour() -> float:
    return time.monotonic() + 3600


def machine(root: Path, files: dict[str, bytes]) -> Tree:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Tree(str(root))


def test_the_changelog_of_the_running_kernel_names_its_cves_and_a_recording_says_the_same(tmp_path: Path) -> None:
    tree = machine(tmp_path, {DEBIAN: gzip.compress(CHANGELOG)})
    read = safety.read_changelogs(tree, KERNEL)
    assert read == {
        "files": [f"/{DEBIAN}"],
        "is_complete": True,
        "cves": {"2021": "3656", "2026": "46113 53359"},
    }
    assert b"someone" not in repr(tree.seen).encode()
    assert safety.read_changelogs(RecordedTree(tree.seen), KERNEL) == read


def test_a_changelog_that_is_not_packed_is_read_too(tmp_path: Path) -> None:
    tree = machine(tmp_path, {DEBIAN.replace(".gz", ""): CHANGELOG})
    assert safety.read_changelogs(tree, KERNEL)["cves"]["2026"] == "46113 53359"


def test_ubuntu_has_it_in_the_package_of_the_modules(tmp_path: Path) -> None:
    tree = machine(tmp_path, {UBUNTU: gzip.compress(CHANGELOG)})
    assert safety.read_changelogs(tree, "5.15.0-91-generic")["files"] == [f"/{UBUNTU}"]


def test_another_kernel_s_changelog_is_not_read(tmp_path: Path) -> None:
    tree = machine(tmp_path, {DEBIAN: gzip.compress(CHANGELOG)})
    with pytest.raises(NotFoundOut, match="There is no changelog"):
        safety.read_changelogs(tree, "6.1.0-17-amd64")


@pytest.mark.parametrize("kernel", ["", "../../etc", "6.1/..", "6.1 x"])
def test_a_release_that_could_lead_elsewhere_names_no_package(kernel: str) -> None:
    with pytest.raises(NotFoundOut, match="is not known"):
        safety.read_changelogs(RecordedTree({}), kernel)


def test_a_damaged_changelog_is_incomplete_and_stays_so_in_a_recording(tmp_path: Path) -> None:
    packed = gzip.compress(CHANGELOG * 100)
    tree = machine(tmp_path, {DEBIAN: packed[: len(packed) // 2]})
    read = safety.read_changelogs(tree, KERNEL)
    assert not read["is_complete"]
    assert safety.read_changelogs(RecordedTree(tree.seen), KERNEL) == read


def test_a_changelog_that_unpacks_without_end_is_left_in_time(tmp_path: Path) -> None:
    tree = machine(tmp_path, {DEBIAN: gzip.compress(CHANGELOG + b"\0" * (2 * safety.LARGEST_UNPACKED))})
    read = safety.read_changelogs(tree, KERNEL)
    assert not read["is_complete"]
    assert read["cves"]["2021"] == "3656"


def test_when_the_time_is_over_the_reading_ends() -> None:
    kept = safety.keep_cves(gzip.compress(CHANGELOG + b" " * 3 * safety.STEP), time.monotonic() - 1)
    assert kept.splitlines()[-1] == safety.INCOMPLETE


@given(where=st.integers(-30, 30))
def test_a_name_that_a_step_cuts_in_two_is_found(where: int) -> None:
    text = b"x" * (safety.STEP + where) + b" CVE-2026-53359 " + b"y" * safety.STEP
    assert safety.keep_cves(gzip.compress(text), in_an_hour()) == b"CVE-2026-53359\n"


@given(raw=st.binary() | st.binary().map(lambda rest: b"\x1f\x8b\x08\x00" + rest))
def test_any_bytes_of_a_changelog_are_kept_as_lines(raw: bytes) -> None:
    kept = safety.keep_cves(raw, in_an_hour())
    assert safety.keep_cves(kept, in_an_hour()) == kept


def test_who_built_the_kernel_is_not_kept() -> None:
    banner = (
        "Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14) 12.2.0, GNU ld) "
        "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)\n"
    )
    kept = safety.keep_banner(banner)
    assert kept == "Linux version 6.1.0-18-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)\n"
    assert safety.keep_banner(kept) == kept


def test_distribution(tmp_path: Path) -> None:
    text = b'PRETTY_NAME="x"\nID="rhel"\nVERSION_ID=9.4\nHOME_URL="https://example.org"\n'
    tree = machine(tmp_path, {"usr/lib/os-release": text})
    assert safety.read_distribution(tree) == {"id": "rhel", "version": "9.4"}
    assert tree.seen["usr/lib/os-release"] == {"text": "ID=rhel\nVERSION_ID=9.4\n"}
    with pytest.raises(NotFoundOut, match="Neither"):
        safety.read_distribution(RecordedTree({}))


def test_a_kernel_that_knows_no_flaws_of_cpus_says_so_by_its_error() -> None:
    answer = safety.read_facts(RecordedTree({}), KERNEL)["cpu_vulnerabilities"]
    assert answer["error"] == "ENOENT"


def test_switches_and_numbers(tmp_path: Path) -> None:
    tree = machine(
        tmp_path,
        {
            "sys/devices/system/cpu/smt/active": b"1\n",
            "sys/devices/system/cpu/smt/control": b"on\n",
            "sys/kernel/mm/ksm/run": b"2\n",
            "sys/devices/system/cpu/vulnerabilities/l1tf": b"Not affected\n",
            "sys/devices/system/cpu/vulnerabilities/mds": b"",
        },
    )
    read = safety.read_facts(tree, KERNEL)
    assert read["smt_active"] == {"value": True}
    assert read["smt_control"] == {"value": "on"}
    assert read["ksm_run"] == {"value": 2}
    assert read["cpu_vulnerabilities"] == {"value": {"l1tf": "Not affected"}}
    machine(tmp_path, {"sys/devices/system/cpu/smt/active": b"yes\n", "sys/kernel/mm/ksm/run": b"-1\n"})
    read = safety.read_facts(tree, KERNEL)
    assert "where 0 or 1 should be" in read["smt_active"]["unknown"]
    assert "where a number should be" in read["ksm_run"]["unknown"]
