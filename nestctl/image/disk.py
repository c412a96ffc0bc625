"""What a disk image is, by its content: names lie, and some formats name other files to be read with them. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum

from nestctl.errors import UsageError

# As many bytes from the beginning as are looked at: a GPT's head and its 128 entries, an ISO's descriptor.
HEAD_BYTES = 64 * 1024
_SECTOR = 512

_MAGIC = {
    b"QFI\xfb": "qcow2",
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
}
# What else users and vendors have under names like these.
_REFUSED = (
    (0, b"\x28\xb5\x2f\xfd", "compressed with Zstandard: unpack it with 'unzstd'"),
    (0, b"PK\x03\x04", "a ZIP archive: unpack it"),
    (257, b"ustar", "a tar archive: unpack it"),
    (0, b"KDMV", "a VMDK disk: convert it with 'qemu-img convert -O qcow2'"),
    (0, b"# Disk DescriptorFile", "a VMDK's description: convert it with 'qemu-img convert -O qcow2'"),
    (0, b"vhdxfile", "a VHDX disk: convert it with 'qemu-img convert -O qcow2'"),
    (0, b"conectix", "a VHD disk: convert it with 'qemu-img convert -O qcow2'"),
    (64, b"\x7f\x10\xda\xbe", "a VDI disk: convert it with 'qemu-img convert -O qcow2'"),
    (0, b"QED\x00", "a QED disk: convert it with 'qemu-img convert -O qcow2'"),
    (0, b"LUKS\xba\xbe", "encrypted (LUKS)"),
)
_ISO_MAGIC = (32769, b"CD001")

# Types of GPT partitions, as they are on disk: mixed-endian UUIDs (UEFI specification, 5.3.3; GRUB manual, "BIOS
# installation").
_BIOS_BOOT = bytes.fromhex("4861682149646f6e744e656564454649")
_EFI_SYSTEM = bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b")
_LEGACY_BOOTABLE = 1 << 2  # attribute of a GPT partition; SYSLINUX's gptmbr.bin looks for it
_MBR_EFI_SYSTEM, _MBR_PROTECTIVE = 0xEF, 0xEE

# QEMU, docs/interop/qcow2.txt: offsets in the header, and bits of its incompatible features.
_QCOW2_HEADER = struct.Struct(">4sIQIIQI")
_EXTERNAL_DATA = 1 << 2


class Firmware(StrEnum):
    """What starts a disk: a PC's BIOS, or UEFI."""

    BIOS = "bios"
    EFI = "efi"


@dataclass(frozen=True, kw_only=True)
class Format:
    """A file's format: 'raw', 'qcow2', or the compression ('gzip', 'xz', 'bzip2') of what has to be looked at again."""

    name: str

    @property
    def is_compressed(self) -> bool:
        """Tell whether the disk has to be unpacked first."""
        return self.name in {"gzip", "xz", "bzip2"}


def parse_format(head: bytes, name: str) -> Format:
    """Tell a file's format by its first `HEAD_BYTES`; `name` is how errors call it.

    Raises `UsageError` for what is no disk image that boots, and for a qcow2 that has other files read with it: they
    would be read with nestctl's rights.
    """
    for magic, format_name in _MAGIC.items():
        if head.startswith(magic):
            if format_name == "qcow2":
                _check_qcow2(head, name)
            return Format(name=format_name)
    for offset, magic, meaning in _REFUSED:
        if head[offset:].startswith(magic):
            raise UsageError(f"'{name}' is {meaning}.")
    if head[510:512] == b"\x55\xaa":
        return Format(name="raw")
    if head[_ISO_MAGIC[0] :].startswith(_ISO_MAGIC[1]):
        raise UsageError(f"'{name}' is a CD, not a disk with a system on it: give it to a guest as its 'cdrom'.")
    if head[:512].lstrip()[:1] == b"<":
        raise UsageError(f"'{name}' is no disk image but a web page.", hint="Give the address of the file itself.")
    raise UsageError(f"'{name}' is no qcow2 image, and no raw one that boots (it has no partition table).")


def _check_qcow2(head: bytes, name: str) -> None:
    if len(head) < 72:
        raise UsageError(f"'{name}' ends within the header of a qcow2 image.")
    _, version, backing_offset, _, _, _, encryption = _QCOW2_HEADER.unpack_from(head)
    if version not in {2, 3}:
        raise UsageError(f"'{name}' is a qcow image of version {version}; versions 2 and 3 can be imported.")
    if backing_offset:
        raise UsageError(
            f"'{name}' is an overlay: it has a backing file, which would be read, whatever file that is.",
            hint="Make one image of both, where you trust them: qemu-img convert -O qcow2 OVERLAY IMAGE.",
        )
    if version >= 3 and int.from_bytes(head[72:80]) & _EXTERNAL_DATA:
        raise UsageError(
            f"'{name}' keeps its data in another file, which would be read, whatever file that is.",
            hint="Make one image of both, where you trust them: qemu-img convert -O qcow2 IMAGE WHOLE.",
        )
    if encryption:
        raise UsageError(f"'{name}' is encrypted.")


def parse_virtual_bytes(head: bytes) -> int:
    """Read from a qcow2's header how large the disk is that a guest sees."""
    return int(_QCOW2_HEADER.unpack_from(head)[5])


def find_firmware(head: bytes, name: str) -> Firmware:
    """Tell what can start a raw disk, by its first `HEAD_BYTES`: the BIOS where it can, which is sooner ready.

    Raises `UsageError` when neither can.
    """
    bios, efi = _assess_gpt(head) if head[_SECTOR : _SECTOR + 8] == b"EFI PART" else _assess_mbr(head)
    if bios:
        return Firmware.BIOS
    if efi:
        return Firmware.EFI
    raise UsageError(f"'{name}' has no boot loader that a PC's BIOS or UEFI would start.")


def _assess_mbr(head: bytes) -> tuple[bool, bool]:
    types = [head[446 + 16 * index + 4] for index in range(4)] if len(head) >= _SECTOR else []
    has_code = any(head[:440])
    return has_code and any(types) and _MBR_PROTECTIVE not in types, _MBR_EFI_SYSTEM in types


def _assess_gpt(head: bytes) -> tuple[bool, bool]:
    first_lba, count, size = struct.unpack("<QII", head[_SECTOR + 72 : _SECTOR + 88].ljust(16, b"\0"))
    bios = efi = False
    for index in range(min(count, 128)):
        entry = head[first_lba * _SECTOR + index * size :][:56]
        if len(entry) < 56 or size < 128:
            break
        attributes = struct.unpack_from("<Q", entry, 48)[0]
        bios |= entry[:16] == _BIOS_BOOT or (any(entry[:16]) and bool(attributes & _LEGACY_BOOTABLE))
        efi |= entry[:16] == _EFI_SYSTEM
    return bios and any(head[:440]), efi
