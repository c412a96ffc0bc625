"""Every profile's domain is one that libvirt and QEMU start: firmware, TPM, devices. No system is installed in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nestctl.lab.profiles import find_profile, list_profiles
from tests.needs import missing
from tests.nested.harness import Lab, wait_until

PROFILES = [name for name in list_profiles() if not find_profile(name).answers]


@pytest.fixture
def lab() -> Iterator[Lab]:
    for program, package in (("swtpm", "swtpm"), ("swtpm_setup", "swtpm-tools")):
        if shutil.which(program) is None:
            missing(f"'{program}' is not installed (package '{package}')")
    if not list(Path("/usr/share/qemu/firmware").glob("*.json")):
        missing("no UEFI firmware is installed (package 'ovmf')")
    guests = "".join(
        f"  {name}: {{profile: {name}, nesting: {str(find_profile(name).nesting).lower()}}}\n" for name in PROFILES
    )
    with TemporaryDirectory(prefix="n-", dir="/tmp") as directory:
        # The TPM's emulator runs under an account of its own, and has to come to its files.
        Path(directory).chmod(0o755)
        made = Lab(directory=Path(directory), name="profiles")
        made.write(f"name: profiles\nimage: blank\ndefaults: {{memory_mib: 512, disk_gib: 2}}\nguests:\n{guests}")
        try:
            made.nestctl("up").expect(0)
            yield made
        finally:
            made.nestctl("down").expect(0)
            made.expect_nothing_left()


def test_every_profile_starts_and_comes_to_the_menu_of_its_firmware(lab: Lab) -> None:
    assert PROFILES == ["hyper-v", "vmware", "windows"]
    assert {it["state"] for it in lab.nestctl("status", "--json").expect(0).json["guests"]} == {"running"}
    assert "nothing to do" in lab.nestctl("plan").expect(0).stdout
    for name in PROFILES:
        # Nothing is on the disk: the firmware starts its own shell, which is not signed.
        is_secure = find_profile(name).firmware == "efi-secure"
        said = b"Security Violation" if is_secure else b"UEFI Interactive Shell"
        wait_until(lambda file=lab.kept / f"{name}.console.log", said=said: said in file.read_bytes())
