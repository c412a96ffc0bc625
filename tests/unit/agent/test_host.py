from __future__ import annotations

from pathlib import Path

import pytest

from nestctl.agent import host
from nestctl.agent.fact import NotFoundOut
from nestctl.agent.tree import RecordedTree, Tree


def test_missing_file_is_unknown_and_names_itself_and_the_error(tmp_path: Path) -> None:
    fact = host.read_facts(Tree(str(tmp_path)))["kernel"]
    assert fact == {
        "unknown": f"{tmp_path}/proc/sys/kernel/osrelease: No such file or directory",
        "error": "ENOENT",
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


def test_of_cpuinfo_only_what_matters_of_the_first_cpu_is_kept() -> None:
    text = "processor\t: 0\nflags\t\t: vmx\nbogomips\t: 5\n\nprocessor\t: 1\nflags\t\t: fpu\n"
    assert host.keep_cpuinfo(text) == "processor\t: 0\nflags\t\t: vmx\nprocessor\t: 1\n"


def test_serial_numbers_of_s390_are_not_kept_and_its_cpus_are_counted() -> None:
    text = "vendor_id       : IBM/S390\nprocessor 0: version = FF,  identification = 0A1B2C,  machine = 3906\n"
    kept = host.keep_cpuinfo(text)
    assert "0A1B2C" not in kept
    assert host.count_cpus(kept) == 1


def test_a_machine_with_very_many_cpus_is_read_whole_and_little_of_it_kept() -> None:
    one = "processor\t: {}\n" + "flags\t\t: " + "flag " * 400 + "\nmodel name\t: A CPU\n\n"
    tree = RecordedTree({host.CPUINFO: {"text": "".join(one.format(number) for number in range(2048))}})
    assert host.read_facts(tree, "x86_64")["cpu_count"] == {"value": 2048}
    assert len(tree.seen[host.CPUINFO]["text"]) < 64 << 10
