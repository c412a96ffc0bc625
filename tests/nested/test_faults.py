"""What goes wrong on real machines: interruptions, kills, taken ports, guests that do not boot, damaged images."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nestctl.image.store import Image
from nestctl.lab.addresses import choose_port
from tests.needs import missing
from tests.nested.harness import Lab, wait_until

_SMALL = "name: small\nguests:\n  one:\n    memory_mib: 512\n    disk_gib: 2\n"


@pytest.fixture
def small(image: Image, state: Path) -> Iterator[Lab]:
    """A lab of one small guest, not up; whatever a test does to it, `down` removes all of it."""
    assert image.disk.exists()
    with Lab(directory=state.parent, name="small").removed_in_the_end() as lab:
        lab.write(_SMALL)
        yield lab


def _file(lab: Lab, name: str) -> Callable[[], bool]:
    return lambda: (lab.kept / name).exists()


# From early to late: the lab's directory is made, keys and disk are there, the guest boots.
_MOMENTS = ["lab.yaml", "keys.json", "one.qcow2", "one.console.log"]


@pytest.mark.parametrize("moment", _MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_up_can_be_ended_anywhere_and_goes_on_from_there(small: Lab, moment: str, number: signal.Signals) -> None:
    with small.start("up") as process:
        wait_until(lambda: (small.kept / moment).exists() or process.poll() is not None)
        process.send_signal(number)
        code = process.wait(timeout=60)
        stderr = process.communicate()[1] if number == signal.SIGINT else ""
    assert code in {130, -signal.SIGKILL}
    assert "Traceback" not in stderr
    small.nestctl("up").expect(0)
    assert small.nestctl("ssh", "one", "--", "hostname").expect(0).stdout == "one\n"
    assert len(small.processes()) == 1


def test_a_restart_keeps_the_disk_and_a_guest_made_anew_does_not(small: Lab) -> None:
    small.write(_SMALL)
    small.nestctl("up").expect(0)
    small.nestctl("ssh", "one", "touch /root/mine; sync").expect(0)
    small.write(_SMALL.replace("memory_mib: 512", "memory_mib: 600"))
    small.nestctl("up").expect(2)
    small.nestctl("up", "--recreate").expect(0)
    kib = small.nestctl("ssh", "one", "ls /root/mine && grep MemTotal /proc/meminfo").expect(0).stdout.split()[-2]
    assert int(kib) > 512 * 1024
    small.write(_SMALL.replace("disk_gib: 2", "disk_gib: 3").replace("memory_mib: 512", "memory_mib: 600"))
    assert "disk_gib 2 -> 3" in small.nestctl("plan").expect(1).stdout
    small.nestctl("up", "--recreate").expect(0)
    small.nestctl("ssh", "one", "ls /root/mine").expect(2)
    small.nestctl("plan").expect(0)


def test_two_guests_boot_at_once_are_interrupted_together_and_up_goes_on(small: Lab) -> None:
    text = _SMALL.replace("  one:", "  one:\n    count: 2")
    small.write(text)
    with small.start("up", "--jobs", "2") as process:
        consoles = [small.kept / f"one-{number}.console.log" for number in (1, 2)]
        wait_until(lambda: all(path.exists() for path in consoles) or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert "Traceback" not in process.communicate()[1]
    assert len(small.processes()) == 2
    small.nestctl("up").expect(0)
    for number in (1, 2):
        name = f"one-{number}"
        assert small.nestctl("ssh", name, "--", "hostname").expect(0).stdout == f"{name}\n"


@pytest.mark.parametrize("moment", _MOMENTS)
def test_down_finishes_the_job_of_an_up_that_was_killed(small: Lab, moment: str) -> None:
    with small.start("up") as process:
        wait_until(lambda: (small.kept / moment).exists())
        process.kill()
        process.wait(timeout=60)
    small.nestctl("down").expect(0)
    small.expect_nothing_left()


def test_down_of_nothing_says_so(small: Lab) -> None:
    assert "nothing of the lab 'small'" in small.nestctl("down").expect(0).stderr
    assert "no lab 'other'" in small.nestctl("down", "other").expect(2).stderr


def test_a_port_that_is_taken_is_left_alone(small: Lab) -> None:
    port = choose_port("small", "one")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        guest = small.nestctl("up", "--json").expect(0).json["guests"][0]
        assert guest["ssh_port"] != port
    small.nestctl("ssh", "one", "true").expect(0)


def test_a_port_that_is_taken_while_the_guest_is_off_is_replaced(small: Lab) -> None:
    port = small.nestctl("up", "--json").expect(0).json["guests"][0]["ssh_port"]
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        if b"guest=small-one" in line.read_bytes() and str(small.state).encode() in line.read_bytes():
            os.kill(int(line.parent.name), signal.SIGKILL)
    wait_until(lambda: small.processes() == [])
    assert small.nestctl("status", "--json").expect(1).json["guests"][0]["state"] == "off"
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        assert small.nestctl("up", "--json").expect(0).json["guests"][0]["ssh_port"] != port
        assert small.nestctl("ssh", "one", "--", "hostname").expect(0).stdout == "one\n"


def test_what_stays_behind_is_named_and_keeps_down_from_saying_that_all_is_done(small: Lab) -> None:
    """A QEMU of ours that libvirt does not know any more: its disk is open, its port is taken."""
    small.nestctl("up").expect(0)
    assert small.nestctl("audit", "small").expect(1).stdout
    (command,) = _commands(small)
    for path in (small.state / "embed/etc/qemu/small-one.xml", small.state / "embed/run/qemu/small-one.xml"):
        if not path.exists():
            missing("the embedded driver is not what is used here")
        path.unlink()
    left = small.nestctl("down").expect(4)
    assert "Not everything of the lab 'small' could be removed" in left.stderr
    assert f"process: QEMU of 'small-one', process {command}" in left.stderr
    assert "port: 127.0.0.1:" in left.stderr
    os.kill(command, signal.SIGKILL)
    wait_until(lambda: small.processes() == [])
    small.nestctl("down").expect(0)
    assert "Nothing of the lab 'small'" in small.nestctl("audit", "small").expect(0).stderr


def _commands(lab: Lab) -> list[int]:
    """The process numbers of a lab's QEMUs."""
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists()
        and f"guest={lab.name}-".encode() in (words := path.read_bytes())
        and str(lab.state).encode() in words
    ]


def test_a_lab_does_not_touch_another_one(small: Lab) -> None:
    """Two labs on one machine, in one libvirt: removing one leaves the other as it was."""
    small.nestctl("up").expect(0)
    other = small.directory / "other.yaml"
    other.write_text(_SMALL.replace("name: small", "name: other"))
    small.nestctl("up", "other.yaml").expect(0)
    before = small.processes()
    small.nestctl("down", "other.yaml").expect(0)
    assert small.processes() == before
    assert small.nestctl("status", "--json").expect(0).json["is_up"]


@pytest.fixture
def broken_image(image: Image) -> Iterator[Path]:
    """A cache with one image, whole by its checksums, whose first process says something and gives up."""
    with TemporaryDirectory(prefix="n-", dir="/tmp") as directory:
        cache = Path(directory)
        target = cache / "images" / "broken"
        target.mkdir(parents=True)
        os.link(image.disk, target / "disk.raw") if image.disk.stat().st_dev == target.stat().st_dev else (
            shutil.copyfile(image.disk, target / "disk.raw")
        )
        shutil.copyfile(image.kernel, target / "vmlinuz")
        (target / "initrd").write_bytes(_initrd_that_gives_up(image, cache))
        manifest = json.loads((image.directory / "image.json").read_text())
        manifest["name"] = "broken"
        manifest["recipe_digest"] = "0" * 64
        for name in ("vmlinuz", "initrd"):
            digest = subprocess.run(("sha256sum", target / name), capture_output=True, text=True, check=True).stdout
            manifest["sha256"][name] = digest.split()[0]
        (target / "image.json").write_text(json.dumps(manifest))
        yield cache


def _initrd_that_gives_up(image: Image, work: Path) -> bytes:
    """The image's own initial RAM disk, with another first process appended: the kernel lets the later file win."""
    init = work / "init"
    init.write_text("#!/bin/busybox sh\necho 'the tea is cold'\n/bin/busybox sleep 1\n/bin/busybox poweroff -f\n")
    init.chmod(0o755)
    command = ("busybox", "cpio", "-o", "-H", "newc") if shutil.which("busybox") else ("cpio", "-o", "-H", "newc")
    archive = subprocess.run(command, input=b"init\n", cwd=work, capture_output=True, check=True).stdout
    init.unlink()
    padding = b"\0" * (-image.initrd.stat().st_size % 512)
    return image.initrd.read_bytes() + padding + archive


def test_a_guest_that_does_not_boot_shows_its_console(small: Lab, broken_image: Path) -> None:
    small.write("image: broken\n" + _SMALL)
    environment = {"NESTCTL_CACHE": str(broken_image)}
    lab = Lab(directory=small.directory, name="small", environment=environment)
    failed = lab.nestctl("up").expect(4)
    assert "'one' was to boot, and has stopped" in failed.stderr
    assert "the tea is cold" in failed.stderr
    lab.nestctl("down").expect(0)
    lab.expect_nothing_left()


def test_a_damaged_image_is_not_booted(small: Lab, image: Image) -> None:
    with TemporaryDirectory(prefix="n-", dir="/tmp") as directory:
        target = Path(directory) / "images" / image.name
        shutil.copytree(image.directory, target, ignore=shutil.ignore_patterns("disk.raw", ".verified"))
        (target / "disk.raw").symlink_to(image.disk)
        with (target / "initrd").open("r+b") as file:
            file.seek(1000)
            file.write(b"\xff")
        lab = Lab(directory=small.directory, name="small", environment={"NESTCTL_CACHE": directory})
        failed = lab.nestctl("up").expect(4)
        assert "initrd' is damaged" in failed.stderr
        assert f"nestctl image rm {image.name}" in failed.stderr
        lab.nestctl("image", "verify", image.name).expect(4)
    assert small.processes() == []


def test_a_lab_too_large_for_this_machine_is_refused_with_the_sums(small: Lab) -> None:
    small.write(_SMALL.replace("memory_mib: 512", "memory_mib: 16000000"))
    refused = small.nestctl("up").expect(3)
    assert "one 16000" in refused.stderr
    assert not small.state.exists()


@pytest.mark.parametrize("kib", [4, 64, 600])
def test_a_full_disk_is_said_and_leaves_nothing(small: Lab, kib: int) -> None:
    """Full at once, full when the guest's files are made, full when libvirt starts it."""
    if os.geteuid() != 0:
        missing("only root can mount a small file system to fill")
    mount = ("mount", "-t", "tmpfs", "-o", f"size={kib}k", "small", small.state)
    small.state.mkdir()
    subprocess.run(mount, check=True)
    try:
        failed = small.nestctl("up")
        assert failed.exit_code in {3, 4}
        assert "No space left on device" in failed.stderr
        assert "Traceback" not in failed.stderr
        # A guest that booted until then stands still, and is there for a second `up`; anything less is gone.
        if small.processes():
            small.nestctl("down").expect(0)
        assert small.processes() == []
        assert list(small.state.iterdir()) == []
    finally:
        subprocess.run(("umount", small.state), check=True)
        small.state.rmdir()


def test_a_polite_end_is_an_interruption(small: Lab) -> None:
    with small.start("up") as process:
        wait_until(_file(small, "one.console.log"))
        process.terminate()
        assert process.wait(timeout=60) == 130
        assert "interrupted" in process.communicate()[1]
