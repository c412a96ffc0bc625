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

from nestctl.adapters.ssh import DirectRoute, Identity, open_ssh
from nestctl.deadline import Deadline
from nestctl.errors import PrerequisiteError
from nestctl.image.store import Image
from nestctl.lab.adopt import Machine, look_inside
from nestctl.lab.keys import read_keys
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


UEFI_LAB = """\
name: uefi
guests:
  plain: {{image: {image}, cpus: 1, memory_mib: 768, nesting: false}}
"""


def import_image(name: str, *, has_bios: bool) -> str:
    """Import the vendor's image, which stays in the store, and name it as a lab file does, with its digest."""
    disk = build_cloud_image(has_bios=has_bios)
    checksum = f"sha256:{digest(disk)}"
    words = ("image", "import", str(disk), "--name", name, "--checksum", checksum)
    run(NESTCTL, *words, timeout_s=600).expect(0)
    assert "is there already" in run(NESTCTL, *words).expect(0).stderr
    return f"{name}@{checksum}"


@pytest.fixture(scope="module")
def lab(image: Image) -> Iterator[Lab]:
    # L2 boots the image of this machine's own packages.
    assert image.disk.exists()
    pinned = import_image(NAME, has_bios=True)
    with TemporaryDirectory(prefix="n-", dir="/tmp") as directory:
        made = Lab(directory=Path(directory), name="cloudy")
        made.write(LAB.format(image=pinned))
        with made.removed_in_the_end():
            made.nestctl("up", timeout_s=1800).expect(0)
            yield made


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


LET_ADA_IN = """
    mkdir -p -m 700 ~ada/.ssh && cp ~root/.ssh/authorized_keys ~ada/.ssh/ && chown -R ada: ~ada/.ssh
"""


def test_an_account_that_may_use_sudo_looks_inside_as_root_does(lab: Lab) -> None:
    guest = next(it for it in lab.nestctl("status", "--json").expect(0).json["guests"] if it["name"] == "l1")
    keys = read_keys(lab.kept / "keys.json")
    route = DirectRoute(host="127.0.0.1", port=guest["ssh_port"])
    deadline = Deadline.after(300, "The look inside")

    def look_as(user: str) -> Machine:
        identity = Identity(user=user, client_key=keys.client.private, host_key=keys.hosts["l1"].public)
        with open_ssh("l1.cloudy", route, identity, deadline=deadline) as shell:
            return look_inside(shell.as_root(deadline), deadline)

    lab.nestctl("exec", "l1", "--", "sh", "-c", LET_ADA_IN).expect(0)
    with pytest.raises(PrerequisiteError, match="may not become root there: sudo: a password is required"):
        look_as("ada")
    allow = "echo 'ada ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ada"
    lab.nestctl("exec", "l1", "--", "sh", "-c", allow).expect(0)
    seen = look_as("ada")
    assert seen == look_as("root")
    # Only root may read the UUID.
    assert re.fullmatch("[0-9a-f-]{36}", seen.uuid)


def test_an_image_that_bios_cannot_start_is_started_by_uefi() -> None:
    with TemporaryDirectory(prefix="n-", dir="/tmp") as directory:
        lab = Lab(directory=Path(directory), name="uefi")
        lab.write(UEFI_LAB.format(image=import_image(f"{NAME}-uefi", has_bios=False)))
        with lab.removed_in_the_end():
            lab.nestctl("up", timeout_s=1800).expect(0)
            lab.nestctl("exec", "plain", "--", "test", "-d", "/sys/firmware/efi/efivars").expect(0)
            assert lab.nestctl("exec", "plain", "--", "hostname").expect(0).stdout == "plain\n"
