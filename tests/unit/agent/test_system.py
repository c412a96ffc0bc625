from __future__ import annotations

from pathlib import Path

import pytest

from nestctl.agent import system
from nestctl.agent.fact import NotFoundOut


def program(directory: Path, name: str, script: str) -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_every_answer_is_known_or_says_why_not() -> None:
    facts = system.read_facts()
    assert all(("value" in fact) != ("unknown" in fact) for fact in facts.values())
    assert facts["disk_available_mib"]["value"] > 0
    assert facts["qemu_version"] == {"unknown": system.NOT_RUN}


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo 'QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0)'", "8.2.2"),
        ("echo 'libvirtd (libvirt) 10.0.0'", "10.0.0"),
    ],
)
def test_a_program_is_asked_for_its_version(script: str, version: str, tmp_path: Path) -> None:
    assert system.ask_version(("/nowhere/qemu", program(tmp_path, "qemu", script))) == version


def test_a_program_that_says_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "PROGRAM_TIMEOUT_S", 0.1)
    with pytest.raises(NotFoundOut, match=r"said nothing within 0\.1 s"):
        system.ask_version((program(tmp_path, "qemu", "exec sleep 60"),))


def test_a_program_that_names_no_version_or_is_missing_is_not_found_out(tmp_path: Path) -> None:
    with pytest.raises(NotFoundOut, match="names no version"):
        system.ask_version((program(tmp_path, "qemu", "echo usage"),))
    with pytest.raises(NotFoundOut, match="There is no 'qemu-nowhere'"):
        system.ask_version(("qemu-nowhere",))


@pytest.mark.parametrize(
    ("line", "is_kept"),
    [
        ("x86/cpu: VMX (outside TXT) disabled by BIOS", True),
        ("SVM disabled (by BIOS) in MSR_VM_CR", True),
        ("kvm: disabled by bios", True),
        ("kvm_amd: SVM not supported by CPU 3, not amd or hygon", True),
        ("kvm_amd: Nested Virtualization enabled", True),
        ("eth0: link up at 52:54:00:12:34:56", False),
        ("audit: user=alice", False),
    ],
)
def test_of_the_kernels_log_only_lines_about_virtualization_are_kept(line: str, is_kept: bool) -> None:
    assert bool(system.LOG_LINES.search(line)) is is_kept
