from __future__ import annotations

import struct
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.errors import UsageError
from nestctl.image.disk import HEAD_BYTES, Firmware, find_firmware, parse_format
from tests.needs import need_program


def qcow2(*, version: int = 3, backing: int = 0, encryption: int = 0, features: int = 0) -> bytes:
    head = struct.pack(">4sIQIIQI", b"QFI\xfb", version, backing, 0, 16, 1 << 30, encryption)
    return head.ljust(72, b"\0") + struct.pack(">Q", features) + bytes(400)


def mbr(*types: int, code: bool = True) -> bytes:
    entries = b"".join(struct.pack("<4xB11x", it) for it in types).ljust(64, b"\0")
    return (b"\xfa" if code else b"\0").ljust(446, b"\0") + entries + b"\x55\xaa"


def gpt(*partitions: tuple[str, int], code: bool = True) -> bytes:
    header = b"EFI PART".ljust(72, b"\0") + struct.pack("<QII", 2, 128, 128)
    entries = b"".join(
        (uuid.UUID(kind).bytes_le + bytes(32) + struct.pack("<Q", attributes)).ljust(128, b"\0")
        for kind, attributes in partitions
    )
    return mbr(0xEE, code=code) + header.ljust(512, b"\0") + entries.ljust(128 * 128, b"\0")


BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
EFI_SYSTEM = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (qcow2(), "qcow2"),
        (qcow2(version=2), "qcow2"),
        (mbr(0x83), "raw"),
        (gpt((LINUX, 0)), "raw"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xfd7zXZ\x00", "xz"),
        (b"BZh9", "bzip2"),
    ],
)
def test_the_content_tells_the_format(head: bytes, name: str) -> None:
    assert parse_format(head, "a.img").name == name


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (qcow2(backing=512), "is an overlay: it has a backing file"),
        (qcow2(features=1 << 2), "keeps its data in another file"),
        (qcow2(encryption=1), "is encrypted"),
        (qcow2(version=1), "is a qcow image of version 1"),
        (qcow2()[:40], "ends within the header"),
        (b"KDMV", "is a VMDK disk"),
        (b"vhdxfile", "is a VHDX disk"),
        (bytes(64) + b"\x7f\x10\xda\xbe", "is a VDI disk"),
        (b"PK\x03\x04", "is a ZIP archive"),
        (bytes(257) + b"ustar", "is a tar archive"),
        (b"\x28\xb5\x2f\xfd", "Zstandard"),
        (bytes(32769) + b"CD001", "is a CD"),
        (b"\n<!DOCTYPE html><html>", "but a web page"),
        (b"", "is no qcow2 image, and no raw one"),
        (bytes(HEAD_BYTES), "is no qcow2 image, and no raw one"),
    ],
)
def test_what_cannot_be_imported_is_named(head: bytes, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_format(head, "a.img")
    assert said in raised.value.message


def test_what_qemu_makes_is_told_apart(tmp_path: Path) -> None:
    """The real thing: a backing file and a data file, as qemu-img writes them down."""
    program = need_program("qemu-img", "qemu-utils")
    whole, overlay, split = tmp_path / "whole", tmp_path / "overlay", tmp_path / "split"

    def create(*words: str) -> None:
        LocalShell().run((program, "create", "-q", *words), deadline=Deadline.after(30, "qemu-img")).expect_success()

    create("-f", "qcow2", str(whole), "1M")
    create("-f", "qcow2", "-F", "qcow2", "-b", str(whole), str(overlay))
    create("-f", "qcow2", "-o", f"data_file={tmp_path}/data", str(split), "1M")
    assert parse_format(whole.read_bytes()[:HEAD_BYTES], "whole").name == "qcow2"
    with pytest.raises(UsageError, match="backing file"):
        parse_format(overlay.read_bytes()[:HEAD_BYTES], "overlay")
    with pytest.raises(UsageError, match="data in another file"):
        parse_format(split.read_bytes()[:HEAD_BYTES], "split")


@pytest.mark.parametrize(
    ("head", "firmware"),
    [
        (mbr(0x83), Firmware.BIOS),
        (mbr(0xEF, 0x83, code=False), Firmware.EFI),
        (gpt((LINUX, 0), (BIOS_BOOT, 0), (EFI_SYSTEM, 0)), Firmware.BIOS),
        (gpt((LINUX, 0), (EFI_SYSTEM, 0)), Firmware.EFI),
        (gpt((BIOS_BOOT, 0), (EFI_SYSTEM, 0), code=False), Firmware.EFI),
        (gpt((LINUX, 1 << 2)), Firmware.BIOS),
    ],
)
def test_the_partitions_tell_the_firmware(head: bytes, firmware: Firmware) -> None:
    assert find_firmware(head, "a.img") is firmware


@pytest.mark.parametrize("head", [b"", bytes(HEAD_BYTES), mbr(0x83, code=False), mbr(), gpt((LINUX, 0))])
def test_a_disk_that_does_not_boot_is_refused(head: bytes) -> None:
    with pytest.raises(UsageError, match="no boot loader"):
        find_firmware(head, "a.img")


@given(st.binary(max_size=600), st.sampled_from([b"QFI\xfb", b"", mbr(0xEE)[:512] + b"EFI PART"]))
def test_nonsense_is_refused_and_nothing_worse(rest: bytes, start: bytes) -> None:
    for look in (parse_format, find_firmware):
        with suppress(UsageError):
            look(start + rest, "a.img")
