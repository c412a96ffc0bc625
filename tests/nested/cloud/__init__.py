"""A cloud image as vendors make them, of this machine's own packages: GPT, GRUB for BIOS and UEFI, cloud-init.

Built without mounting anything, and kept in the real cache under the digest of what it is made of.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from nestctl.image.build import render_command
from nestctl.image.recipe import Recipe, read_recipe
from nestctl.paths import cache_directory
from tests.needs import need_program

_HOOK = Path(__file__).with_name("hook.sh")
_PACKAGES = (
    "systemd-sysv",
    "systemd-resolved",
    "udev",
    "dbus",
    "openssh-server",
    "cloud-init",
    "cloud-guest-utils",
    "initramfs-tools",
    "zstd",
    "e2fsprogs",
    "iproute2",
    "procps",
    "sudo",
    "python3",
    # What the playbook l1-kvm.yml would install.
    "qemu-system-x86",
    "qemu-utils",
    "ovmf",
    "libvirt-daemon-system",
    "libvirt-clients",
    "dnsmasq-base",
    "iptables",
)
_SECTOR = 512
_BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"  # GRUB manual, "BIOS installation"
_ROOT_BYTES = 1536 << 20
_ESP_BYTES = 16 << 20
_CORE_LBA, _ESP_LBA = 2048, 4096
_ROOT_LBA = _ESP_LBA + _ESP_BYTES // _SECTOR
_MODULES = ("part_gpt", "ext2", "normal", "linux", "configfile", "boot")


def build_cloud_image(*, has_bios: bool) -> Path:
    """Return a qcow2 image, built now unless it is there; without BIOS only UEFI starts it."""
    for program, package in (("grub-mkimage", "grub-common"), ("sfdisk", "fdisk"), ("mformat", "mtools")):
        need_program(program, package)
    recipe = _recipe()
    directory = cache_directory() / "test-images"
    directory.mkdir(parents=True, exist_ok=True)
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    target = directory / f"cloud-{recipe.digest[:12]}-{own[:12]}-{'bios' if has_bios else 'efi'}.qcow2"
    if not target.exists():
        with TemporaryDirectory(dir=directory) as work:
            disk = _assemble(_build_root(recipe, directory), Path(work), has_bios=has_bios)
            _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(disk), f"{work}/cloud.qcow2")
            Path(work, "cloud.qcow2").rename(target)
    return target


def _recipe() -> Recipe:
    own = read_recipe()
    return replace(own, packages=(own.packages[0], *_PACKAGES), files_digest=digest(_HOOK), disk_bytes=_ROOT_BYTES)


def _build_root(recipe: Recipe, directory: Path) -> Path:
    target = directory / f"root-{recipe.digest[:12]}.ext4"
    if target.exists():
        return target
    with TemporaryDirectory(dir=directory) as work:
        Path(work).chmod(0o755)
        file = Path(work, "root.ext4")
        file.touch()
        file.chmod(0o666)
        os.truncate(file, _ROOT_BYTES)
        environment = {**os.environ, "NESTCTL_IMAGE_OUTPUT": work, "LC_ALL": "C.UTF-8"}
        _run(*render_command(recipe, _HOOK), environment=environment)
        file.rename(target)
    return target


def _assemble(root: Path, work: Path, *, has_bios: bool) -> Path:
    """Put the disk together: a BIOS boot partition, an EFI system partition and the root file system."""
    disk = work / "disk.raw"
    disk.touch()
    os.truncate(disk, _ROOT_LBA * _SECTOR + _ROOT_BYTES + (1 << 20))
    first = _BIOS_BOOT if has_bios else "L"
    table = (
        "label: gpt\n"
        f"start={_CORE_LBA}, size={_ESP_LBA - _CORE_LBA}, type={first}\n"
        f"start={_ESP_LBA}, size={_ESP_BYTES // _SECTOR}, type=U\n"
        f"start={_ROOT_LBA}, size={_ROOT_BYTES // _SECTOR}, type=L\n"
    )
    _run("sfdisk", "--quiet", str(disk), text=table)
    if has_bios:
        _install_grub(disk, work)
    _install_efi_grub(disk, work)
    _run(
        "dd",
        "bs=1M",
        "conv=notrunc,sparse",
        f"seek={_ROOT_LBA * _SECTOR}",
        "oflag=seek_bytes",
        f"if={root}",
        f"of={disk}",
    )
    return disk


def _install_grub(disk: Path, work: Path) -> None:
    """Do what grub-bios-setup does, which wants a device (GRUB's include/grub/i386/pc/boot.h has the offsets)."""
    core = work / "core.img"
    _run("grub-mkimage", "-O", "i386-pc", "-p", "(hd0,gpt3)/boot/grub", "-o", str(core), "biosdisk", *_MODULES)
    boot = bytearray(Path("/usr/lib/grub/i386-pc/boot.img").read_bytes())
    boot[0x5C:0x64] = struct.pack("<Q", _CORE_LBA)
    boot[0x66:0x68] = b"\x90\x90"  # whatever drive the BIOS says, as it is said
    body = bytearray(core.read_bytes())
    body[0x1F4:0x1FC] = struct.pack("<Q", _CORE_LBA + 1)
    with disk.open("r+b") as file:
        file.write(boot[:440])
        file.seek(_CORE_LBA * _SECTOR)
        file.write(body)


def _install_efi_grub(disk: Path, work: Path) -> None:
    loader, esp = work / "bootx64.efi", work / "esp.img"
    _run("grub-mkimage", "-O", "x86_64-efi", "-p", "(hd0,gpt3)/boot/grub", "-o", str(loader), *_MODULES)
    esp.touch()
    _run("mformat", "-C", "-i", str(esp), "-h", "64", "-s", "32", "-t", str(_ESP_BYTES // (64 * 32 * _SECTOR)), "::")
    _run("mmd", "-i", str(esp), "::/EFI", "::/EFI/BOOT")
    _run("mcopy", "-i", str(esp), str(loader), "::/EFI/BOOT/BOOTX64.EFI")
    with disk.open("r+b") as file, esp.open("rb") as source:
        file.seek(_ESP_LBA * _SECTOR)
        shutil.copyfileobj(source, file)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(*command: str, text: str = "", environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, input=text, text=True, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr[-3000:]}"
