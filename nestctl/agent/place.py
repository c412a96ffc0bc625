"""Read what tells where this machine is: its firmware's tables, the hypervisor's marks, a container's marks.

The order of the marks and the fields that are looked at are those of systemd-detect-virt (systemd, src/basic/virt.c).
"""

from __future__ import annotations

import re

from .fact import Fact, NotFoundOut, find_out
from .tree import Tree

# Serial numbers, UUIDs and asset tags are not among them.
DMI_FIELDS = ("product_name", "sys_vendor", "board_vendor", "bios_vendor", "product_version")
# Two clouds mark all their machines with one and the same asset tag (cloud-init, DataSourceAzure and DataSourceOracle);
# any other is the owner's and is not read on.
AZURE_ASSET_TAG = "7783-7084-3265-9085-8269-3286-77"
ORACLE_ASSET_TAG = "OracleCloud.com"

CONTAINER_FILES = {"run/.containerenv": "podman", ".dockerenv": "docker"}
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
XENFEAT_DOM0 = 11  # include/xen/interface/features.h


def read_facts(tree: Tree) -> dict[str, Fact]:
    """Read every fact about where this machine is; what cannot be read is unknown with its reason."""
    return {
        "dmi": find_out(lambda: read_dmi(tree)),
        "smbios_is_guest": find_out(lambda: read_smbios_is_guest(tree)),
        "device_tree_hypervisor": find_out(lambda: tree.word("proc/device-tree/hypervisor/compatible")),
        "s390_hypervisor": find_out(lambda: parse_sysinfo(tree.text("proc/sysinfo", keep=keep_sysinfo))),
        "xen": find_out(lambda: read_xen(tree)),
        "container": find_out(lambda: read_container(tree)),
        "lockdown": find_out(lambda: parse_chosen(tree.word("sys/kernel/security/lockdown"))),
        "secure_boot": find_out(lambda: read_secure_boot(tree)),
    }


def read_dmi(tree: Tree) -> dict[str, str]:
    """Return the fields of /sys/class/dmi/id that say who made the machine; raises OSError where there is no DMI."""
    found = {field: find_out(lambda field=field: tree.word(f"sys/class/dmi/id/{field}")) for field in DMI_FIELDS}  # type: ignore[misc]
    if not any("value" in fact for fact in found.values()):
        tree.names("sys/class/dmi/id", lambda _name: False)
        raise NotFoundOut("/sys/class/dmi/id has none of the fields that name the machine.")
    read = {field: fact["value"] for field, fact in found.items() if "value" in fact}
    tag = find_out(lambda: tree.text("sys/class/dmi/id/chassis_asset_tag", keep=_keep_cloud_tag).strip())
    return {**read, **({"chassis_asset_tag": tag["value"]} if tag.get("value") else {})}


def _keep_cloud_tag(text: str) -> str:
    return text if text.strip() in (AZURE_ASSET_TAG, ORACLE_ASSET_TAG) else ""


def read_smbios_is_guest(tree: Tree) -> bool:
    """Return the bit by which SMBIOS says 'virtual machine': type 0, byte 19, bit 4 (DMTF DSP0134, 7.1.2.2)."""
    head = tree.read("sys/firmware/dmi/entries/0-0/raw", keep=lambda raw: raw[:20])
    if len(head) < 20:
        raise NotFoundOut("The firmware's table is too short to say it.")
    return bool(head[19] >> 4 & 1)


def keep_sysinfo(text: str) -> str:
    """Of s390's /proc/sysinfo keep the machine's type and the control programs: the rest are names and serials."""
    wanted = re.compile(r"(Manufacturer|Type|VM\d\d Control Program|LPAR Number|LPAR Characteristics)\s*:")
    return "".join(f"{line}\n" for line in text.splitlines() if wanted.match(line))


def parse_sysinfo(text: str) -> str:
    """Return the control program this machine is a guest of ('KVM/Linux', 'z/VM 7.3.0'), else 'LPAR' or ''."""
    if program := re.search(r"^VM00 Control Program\s*:\s*(.+)$", text, re.MULTILINE):
        return " ".join(program.group(1).split())
    return "LPAR" if re.search(r"^LPAR Number\s*:", text, re.MULTILINE) else ""


def read_xen(tree: Tree) -> dict[str, bool]:
    """Say that this is a guest of Xen, and whether the one that rules it; raises OSError where it is none."""
    if tree.word("sys/hypervisor/type") != "xen":
        raise NotFoundOut("/sys/hypervisor/type is not 'xen'.")
    features = find_out(lambda: int(_hexadecimal(tree.word("sys/hypervisor/properties/features")), 16))
    capabilities = find_out(lambda: tree.word("proc/xen/capabilities"))
    rules = bool(features.get("value", 0) >> XENFEAT_DOM0 & 1) or "control_d" in capabilities.get("value", "")
    return {"is_dom0": rules}


def _hexadecimal(text: str) -> str:
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]{1,16}", text):
        raise NotFoundOut(f"Xen's features are '{text[:40]}' where a hexadecimal number should be.")
    return text


def read_container(tree: Tree) -> dict[str, str]:
    """Name the container this runs in, and what shows it; the name is '' where nothing does."""
    said = find_out(lambda: tree.text("proc/1/environ", keep=_keep_container_variable)).get("value", "")
    if said.startswith("container="):
        return {"name": said[len("container=") :].strip("\0\n") or "container", "evidence": "/proc/1/environ"}
    for path, name in CONTAINER_FILES.items():
        if tree.exists(path):
            return {"name": name, "evidence": f"/{path}"}
    written = find_out(lambda: tree.word("run/systemd/container")).get("value", "")
    if written:
        return {"name": written, "evidence": "/run/systemd/container"}
    if tree.exists("var/run/secrets/kubernetes.io"):
        return {"name": "kubernetes", "evidence": "/var/run/secrets/kubernetes.io"}
    if tree.exists("proc/vz") and not tree.exists("proc/bc"):
        return {"name": "openvz", "evidence": "/proc/vz"}
    return {"name": "", "evidence": ""}


def _keep_container_variable(text: str) -> str:
    return next((word for word in text.split("\0") if word.startswith("container=")), "")


def parse_chosen(choices: str) -> str:
    """Of 'none [integrity] confidentiality' return the word in brackets."""
    chosen = re.search(r"\[([a-z]+)\]", choices)
    if not chosen:
        raise NotFoundOut(f"No word of '{choices[:60]}' is in brackets.")
    return chosen.group(1)


def read_secure_boot(tree: Tree) -> bool:
    """Read the EFI variable: four bytes of attributes, then 1 where it is on (UEFI 2.10, 3.3)."""
    if not tree.exists("sys/firmware/efi"):
        return False  # started by a BIOS, which has none
    content = tree.read(SECURE_BOOT, keep=lambda raw: raw[:5])
    if len(content) != 5:
        raise NotFoundOut("The variable SecureBoot is not of five bytes.")
    return content[4] == 1
