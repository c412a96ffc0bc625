"""What modprobe.d and the boot line want of nesting, against what is in effect."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from nestctl.check.findings import Finding, Status
from nestctl.check.recording import read_recording
from nestctl.check.rules.offer import find_nested_parameter, find_nested_settings
from nestctl.check.settings import forbidding_lines, read_bool
from nestctl.model.facts import Facts
from nestctl.model.facts_document import parse_facts

MACHINE = read_recording(Path(__file__).parents[2] / "hosts" / "intel-everything").collect()


def facts_with(effect: str, *files: tuple[str, str], boot_line: str = "") -> Facts:
    document: dict[str, Any] = copy.deepcopy(MACHINE)
    document["host"]["modules"]["value"]["kvm_intel"]["parameters"]["nested"] = {"value": effect}
    document["host"]["boot_line"] = {"value": boot_line.split()}
    document["host"]["module_settings"] = {
        "value": [{"file": file, "kind": "options", "module": "kvm_intel", "text": text} for file, text in files]
    }
    return parse_facts(document)


def settings(effect: str, *files: tuple[str, str], boot_line: str = "") -> Finding | None:
    return find_nested_settings(facts_with(effect, *files, boot_line=boot_line))


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("Y", True), ("on", True), ("0", False), ("n", False), ("off", False), ("", None), ("maybe", None)],
)
def test_a_boolean_is_read_as_the_kernel_reads_it(text: str, value: bool | None) -> None:
    assert read_bool(text) is value


def test_where_nobody_sets_it_there_is_nothing_to_say() -> None:
    assert settings("Y", ("/etc/modprobe.d/a.conf", "ept=1")) is None


@pytest.mark.parametrize(
    ("effect", "files", "boot_line", "status", "said"),
    [
        ("Y", ["nested=1"], "", Status.PASS, "a.conf keeps nesting on"),
        ("N", ["nested"], "", Status.WARN, "is off now, and /etc/modprobe.d/a.conf switches it on at the next load"),
        ("Y", ["nested=1"], "kvm-intel.nested=0", Status.WARN, "the boot line switches it off at the next load"),
        ("Y", ["nested=0", "nested=1"], "", Status.WARN, "disagree about nesting; /etc/modprobe.d/b.conf wins"),
        ("Y", ["nested=perhaps"], "", Status.WARN, "neither on nor off"),
    ],
)
def test_what_is_set_is_compared_with_what_is_in_effect(
    effect: str, files: list[str], boot_line: str, status: Status, said: str
) -> None:
    named = [(f"/etc/modprobe.d/{name}.conf", text) for name, text in zip("ab", files, strict=False)]
    finding = settings(effect, *named, boot_line=boot_line)
    assert finding is not None
    assert (finding.status, said in finding.summary) == (status, True)


def test_the_fix_names_what_stands_against_it() -> None:
    finding = find_nested_parameter(facts_with("N", ("/etc/modprobe.d/own.conf", "nested=0")))
    assert finding is not None
    assert finding.fix.startswith("Take 'nested=0' out of /etc/modprobe.d/own.conf; then: echo 'options kvm_intel")


def test_a_module_is_kept_out_by_files_and_by_the_boot_line() -> None:
    document = copy.deepcopy(MACHINE)
    document["host"]["boot_line"] = {"value": ["modprobe.blacklist=nouveau,kvm-intel", "module_blacklist=other"]}
    document["host"]["module_settings"] = {
        "value": [
            {"file": "/etc/modprobe.d/a.conf", "kind": "install", "module": "kvm", "text": "/bin/false"},
            {"file": "/etc/modprobe.d/b.conf", "kind": "install", "module": "kvm_intel", "text": "/sbin/modprobe -i x"},
            {"file": "/etc/modprobe.d/c.conf", "kind": "blacklist", "module": "kvm_amd", "text": ""},
        ]
    }
    assert forbidding_lines(parse_facts(document), "kvm_intel") == (
        "/etc/modprobe.d/a.conf: install kvm /bin/false",
        "the boot line: modprobe.blacklist=nouveau,kvm-intel",
    )
