"""What a level is made of, read from a small tree of files; and this machine's, for real."""

from pathlib import Path

import pytest

from nestctl.agent import fingerprint

FILES = {
    "proc/cpuinfo": "model name\t: Some CPU\nmicrocode\t: 0x1\nflags\t: fpu hypervisor\n",
    "proc/sys/kernel/random/boot_id": "3c0f\n",
    "proc/meminfo": "MemTotal:        2048000 kB\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/kernel/mm/ksm/run": "0\n",
    "sys/module/kvm/parameters/halt_poll_ns": "200000\n",
    "sys/module/kvm_amd/parameters/nested": "1\n",
    "sys/module/kvm_amd/parameters/npt": "Y\n",
    "sys/devices/system/cpu/vulnerabilities/retbleed": "Mitigation: untrained return thunk\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu0/cache/index0/level": "1\n",
    "sys/devices/system/cpu/cpu0/cache/index0/size": "32K\n",
    "sys/devices/system/cpu/cpu0/cache/index3/level": "3\n",
    "sys/devices/system/cpu/cpu0/cache/index3/size": "16384K\n",
}


def test_everything_that_a_figure_depends_on_is_named(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = fingerprint.read_fingerprint(tmp_path)
    expected = {
        "boot_id": "3c0f",
        "cpu_model": "Some CPU",
        "microcode": "0x1",
        "is_virtual_machine": "yes",
        "memory_mib": "2000",
        "transparent_hugepages": "madvise",
        "ksm": "0",
        "governor": "performance",
        "largest_cache": "16384K",
        "nested_parameter": "1",
        "kvm.halt_poll_ns": "200000",
        "kvm_amd.npt": "Y",
        "mitigation.retbleed": "Mitigation: untrained return thunk",
    }
    assert {name: found[name] for name in expected} == expected
    assert "qemu" not in found


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    assert set(fingerprint.read_fingerprint(tmp_path)) <= {
        "kernel",
        "architecture",
        "cpus",
        "is_virtual_machine",
        "kvm_backend",
        "python",
    }


def test_programs_are_asked_for_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "PROGRAMS", {"qemu": "python3", "libvirt": "nestctl-nothing"})
    (found,) = fingerprint.read_versions().items()
    assert found[0] == "qemu"
    assert found[1].startswith("Python 3")
