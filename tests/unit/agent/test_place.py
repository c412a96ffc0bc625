from __future__ import annotations

import base64
from typing import Any

import pytest

from nestctl.agent import place
from nestctl.agent.fact import NotFoundOut
from nestctl.agent.tree import RecordedTree

SMBIOS = "sys/firmware/dmi/entries/0-0/raw"


def facts_of(**files: str) -> dict[str, Any]:
    return place.read_facts(RecordedTree({path: {"text": text} for path, text in files.items()}))


def test_nothing_shows_on_a_machine_without_marks() -> None:
    facts = facts_of()
    assert facts["container"] == {"value": {"name": "", "evidence": ""}}
    assert {name for name, fact in facts.items() if fact.get("error") == "ENOENT"} == {
        "dmi",
        "smbios_is_guest",
        "device_tree_hypervisor",
        "s390_hypervisor",
        "xen",
        "lockdown",
    }


TAG = "sys/class/dmi/id/chassis_asset_tag"


@pytest.mark.parametrize("tag", [place.AZURE_ASSET_TAG, place.ORACLE_ASSET_TAG])
def test_an_asset_tag_that_is_a_cloud_s_own_is_read(tag: str) -> None:
    facts = facts_of(**{"sys/class/dmi/id/sys_vendor": "Vendor\n", TAG: f"{tag}\n"})
    assert facts["dmi"]["value"] == {"sys_vendor": "Vendor", "chassis_asset_tag": tag}


def test_an_asset_tag_that_is_an_owner_s_is_not_read() -> None:
    owners = facts_of(**{"sys/class/dmi/id/sys_vendor": "Vendor\n", TAG: "room 12, shelf 3\n"})
    assert owners["dmi"] == {"value": {"sys_vendor": "Vendor"}}


@pytest.mark.parametrize(("byte", "is_guest"), [(0x10, True), (0xEF, False)])
def test_smbios_says_whether_the_machine_is_virtual(byte: int, is_guest: bool) -> None:
    raw = base64.b64encode(bytes(19) + bytes([byte]) + b"\xffserial").decode()
    tree = RecordedTree({SMBIOS: {"base64": raw}})
    assert place.read_smbios_is_guest(tree) is is_guest
    assert "serial" not in str(tree.seen)


def test_a_table_that_is_too_short_says_nothing() -> None:
    with pytest.raises(NotFoundOut):
        place.read_smbios_is_guest(RecordedTree({SMBIOS: {"text": "short"}}))


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (
            "Type: 3906\nLPAR Number: 12\nLPAR Name: SECRET\nVM00 Name: SECRET\nVM00 Control Program: KVM/Linux\n",
            "KVM/Linux",
        ),
        ("Type: 3906\nLPAR Number: 12\nLPAR Name: SECRET\n", "LPAR"),
        ("Type: 3906\n", ""),
    ],
)
def test_the_control_program_of_s390_is_read_and_no_name(text: str, program: str) -> None:
    kept = place.keep_sysinfo(text)
    assert "SECRET" not in kept
    assert place.parse_sysinfo(kept) == program


@pytest.mark.parametrize(
    ("files", "is_dom0"),
    [
        ({"sys/hypervisor/properties/features": "00000dff\n"}, True),
        ({"sys/hypervisor/properties/features": "000003ff\n"}, False),
        ({"proc/xen/capabilities": "control_d\n"}, True),
        ({"sys/hypervisor/properties/features": "no number"}, False),
    ],
)
def test_the_guest_that_rules_xen_is_told_from_the_others(files: dict[str, str], is_dom0: bool) -> None:
    assert facts_of(**{"sys/hypervisor/type": "xen\n", **files})["xen"] == {"value": {"is_dom0": is_dom0}}


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"proc/1/environ": "HOME=/private\0container=lxc\0TOKEN=private\0"}, "lxc"),
        ({".dockerenv": ""}, "docker"),
        ({"run/.containerenv": ""}, "podman"),
        ({"run/systemd/container": "systemd-nspawn\n"}, "systemd-nspawn"),
        ({"var/run/secrets/kubernetes.io/x": ""}, "kubernetes"),
        ({"proc/vz": ""}, "openvz"),
        ({"proc/vz": "", "proc/bc": ""}, ""),
    ],
)
def test_containers_are_told_by_their_marks(files: dict[str, str], name: str) -> None:
    tree = RecordedTree({path: {"text": text} for path, text in files.items()})
    assert place.read_container(tree)["name"] == name
    assert "private" not in str(tree.seen)


@pytest.mark.parametrize(
    ("content", "fact"),
    [("\x06\0\0\0\x01", {"value": True}), ("\x06\0\0\0\0", {"value": False}), ("", {"unknown": "The variable"})],
)
def test_secure_boot_is_the_fifth_byte(content: str, fact: dict[str, Any]) -> None:
    found = facts_of(**{place.SECURE_BOOT: content})["secure_boot"]
    assert found == fact or str(found["unknown"]).startswith(fact["unknown"])


def test_lockdown_is_the_word_in_brackets() -> None:
    assert facts_of(**{"sys/kernel/security/lockdown": "none [integrity] confidentiality\n"})["lockdown"] == {
        "value": "integrity"
    }
