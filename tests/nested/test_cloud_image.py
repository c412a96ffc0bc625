"""A vendor's image as L1: imported, booted by its own boot loader, made a hypervisor, with a guest inside."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import testinfra

from nestctl.image.store import Image
from nestctl.paths import resource
from tests.nested.cloud import build_cloud_image, digest
from tests.nested.harness import NESTCTL, Lab, run

NAME = "nestctl-test-cloud"
LAB = """\
name: cloudy
guests:
  l1:
    image: {image}
    cpus: 1
    memory_mib: 2048
    seed:
      files: [{{path: /etc/motd, content: "hello\\n"}}]
      users: [{{name: ada}}]
      commands: ["id -un ada > /root/ada"]
    guests:
      l2:
        image: built
        memory_mib: 512
        disk_gib: 4
"""


@pytest.fixture(scope="module")
def pinned(image: Image) -> str:
    """The image of this machine's packages is in the store, and the vendor's is imported into it; it stays there."""
    assert image.disk.exists()
    disk = build_cloud_image(has_bios=True)
    checksum = f"sha256:{digest(disk)}"
    words = ("image", "import", str(disk), "--name", NAME, "--checksum", checksum)
    run(NESTCTL, *words, timeout_s=600).expect(0)
    assert "is there already" in run(NESTCTL, *words).expect(0).stderr
    return f"{NAME}@{checksum}"


@pytest.fixture(scope="module")
def lab(pinned: str) -> Iterator[Lab]:
    with TemporaryDirectory(prefix="n-", dir="/tmp") as directory:
        made = Lab(directory=Path(directory), name="cloudy")
        made.write(LAB.format(image=pinned))
        try:
            made.nestctl("up", timeout_s=1800).expect(0)
            yield made
        finally:
            made.nestctl("down", timeout_s=600).expect(0)
            made.expect_nothing_left()


def test_a_vendors_image_is_a_hypervisor_with_the_identity_that_it_was_given(lab: Lab) -> None:
    l1 = testinfra.get_host("ssh://l1", ssh_config=str(lab.ssh_config))
    # ssh_config checks host keys strictly: that it answers is the proof that the key was brought.
    assert l1.check_output("hostname") == "l1"
    assert len(l1.run("ls /etc/ssh/ssh_host_*").stdout.split()) == 2
    assert l1.file("/etc/motd").content_string == "hello\n"
    assert l1.file("/root/ada").content_string == "ada\n"
    assert "passwordauthentication no" in l1.run("sshd -T").stdout
    # It runs from its own disk, grown to the size that it was given, and not from the image beside it.
    assert "BOOT_IMAGE=/boot/vmlinuz" in l1.file("/proc/cmdline").content_string
    assert int(l1.check_output("df --output=size -B1 / | tail -n 1")) > 0.9 * 8 * 2**30
    assert l1.check_output("readlink -f /dev/disk/by-label/cloud-root") == "/dev/vda3"
    assert lab.nestctl("exec", "l2", "--", "systemd-detect-virt").expect(0).stdout == "kvm\n"
    assert "nothing to do" in lab.nestctl("plan").expect(0).stdout


def test_the_playbook_runs_by_itself_and_changes_nothing_the_second_time(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(
        f"""l1 ansible_user=root ansible_ssh_common_args='-F "{lab.ssh_config}"'\n""", encoding="utf-8"
    )
    played = subprocess.run(
        (
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", str(tmp_path / "hosts")),
            str(resource("playbooks", "l1-kvm.yml")),
        ),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={"HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )
    assert re.search(r"^l1 .*\bchanged=0 .*\bfailed=0", played.stdout, re.MULTILINE), played.stdout + played.stderr
