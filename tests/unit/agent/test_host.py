from __future__ import annotations

from pathlib import Path

import pytest

from nestctl.agent import host
from nestctl.agent.fact import NotFoundOut


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def test_missing_file_is_unknown_and_names_itself_and_the_error(tmp_path: Path) -> None:
    fact = host.read_facts(tmp_path)["kernel"]
    assert fact == {
        "unknown": f"{tmp_path}/proc/sys/kernel/osrelease: No such file or directory",
        "error": "ENOENT",
    }


def test_a_loaded_module_is_told_from_one_that_is_built_in(tmp_path: Path) -> None:
    write(tmp_path, "kvm_intel/initstate", "live\n")
    write(tmp_path, "kvm_intel/parameters/nested", "Y\n")
    write(tmp_path, "kvm/parameters/ignore_msrs", "N\n")
    write(tmp_path, "kvmgt/initstate", "live\n")
    assert host.read_modules(tmp_path) == {
        "kvm": {"state": "built in", "parameters": {"ignore_msrs": {"value": "N"}}},
        "kvm_intel": {"state": "loaded", "parameters": {"nested": {"value": "Y"}}},
    }


def test_memory_is_counted_in_mib() -> None:
    assert host.parse_meminfo("MemFree: 5 kB\nMemTotal:   4096 kB\n", "MemTotal") == 4


@pytest.mark.parametrize("text", ["", "MemTotal:", "MemTotal: 12 MB", "MemTotal: -3 kB", "MemTotal: ² kB"])
def test_memory_that_cannot_be_read_is_not_found_out(text: str) -> None:
    with pytest.raises(NotFoundOut):
        host.parse_meminfo(text, "MemTotal")


def test_cpus_and_their_flags_are_those_of_cpuinfo() -> None:
    text = "processor\t: 0\nflags\t\t: fpu vmx\n\nprocessor\t: 1\nflags\t\t: fpu\n"
    assert host.count_cpus(text) == 2
    assert host.parse_cpuinfo(text, "flags") == "fpu vmx"
