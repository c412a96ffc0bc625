"""What users on real hosts run: nestctl on a machine whose KVM gives guests SVM or VMX. Here that machine is an L1.

It is installed there as on a server without a way out: from wheels, with the distribution's libvirt.
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nestctl.adapters.ssh import DirectRoute, Identity, SshShell, open_ssh
from nestctl.bench.tune.machines import changed_machine
from nestctl.bench.tune.settings import read_settings
from nestctl.deadline import Deadline
from nestctl.image.store import Image
from nestctl.lab.keys import read_keys
from tests.nested.harness import Lab, run

_ROOT = Path(__file__).parents[2]
_NESTCTL = "/opt/nestctl/bin/nestctl"

_LAB = """\
name: inner
image: {image}
guests:
  leaf:
    memory_mib: 512
    disk_gib: 2
"""


def _deadline(seconds: float) -> Deadline:
    return Deadline.after(seconds, "A step of the test")


@pytest.fixture(scope="module")
def server(image: Image) -> Iterator[SshShell]:
    """A machine of its own with working KVM: a guest that is a hypervisor, with nothing in it yet."""
    with TemporaryDirectory(prefix="n-", dir="/tmp") as directory:
        lab = Lab(directory=Path(directory), name="rack")
        lab.write("name: rack\nguests:\n  server: {cpus: 2, memory_mib: 2560, disk_gib: 16, nesting: true}\n")
        try:
            guest = lab.nestctl("up", "--json", timeout_s=1800).expect(0).json["guests"][0]
            keys = read_keys(lab.kept / "keys.json")
            identity = Identity(user="root", client_key=keys.client.private, host_key=keys.hosts["server"].public)
            route = DirectRoute(host="127.0.0.1", port=guest["ssh_port"])
            with open_ssh("server.rack", route, identity, deadline=_deadline(60)) as shell:
                _install(shell, image)
                yield shell
        finally:
            lab.nestctl("down", timeout_s=600).expect(0)
            lab.expect_nothing_left()


def _install(shell: SshShell, image: Image) -> None:
    with TemporaryDirectory() as directory:
        wheels = Path(directory) / "wheels"
        _collect_wheels(wheels)
        _send(shell, wheels, "/root/wheels")
    install = (
        "python3 -m venv --without-pip --system-site-packages /opt/nestctl && "
        "python3 $(echo /root/wheels/pip-*.whl)/pip --python /opt/nestctl/bin/python install --quiet --no-compile "
        "--no-index --find-links /root/wheels nestctl"
    )
    shell.run(("sh", "-c", install), deadline=_deadline(900)).expect_success()
    # The image is there already: it is the disk this guest itself was made from.
    target = f"/var/cache/nestctl/images/{image.name}"
    copy = (
        f"mkdir -p {target} && cat > {target}/image.json && cp /boot/vmlinuz /boot/initrd {target}/ && "
        f"cp --sparse=always /dev/disk/by-id/virtio-nestctl-base {target}/disk.raw"
    )
    manifest = (image.directory / "image.json").read_bytes()
    shell.run(("sh", "-c", copy), deadline=_deadline(600), stdin=manifest).expect_success()


def _collect_wheels(wheels: Path) -> None:
    """Wheels of nestctl and of what it needs at run time, as pinned, for the guest's Python; pip itself among them."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(_ROOT)).expect(0)
    # libvirt-python is the distribution's there; Ansible, matplotlib and the build tools are not needed to run guests.
    needed = _runtime_requirements(_ROOT / "requirements.lock")
    run(*pip, "download", "--no-deps", "--only-binary", ":all:", "-d", str(wheels), "pip", *needed).expect(0)


def _runtime_requirements(lock: Path) -> list[str]:
    matplotlib = ("matplotlib", "numpy", "pillow", "contourpy", "fonttools", "kiwisolver")
    left_out = ("libvirt-python", "ansible-core", "resolvelib", "hatchling", *matplotlib)
    lines = [line.split(";")[0].rstrip(" \\") for line in lock.read_text().splitlines() if line[:1].isalpha()]
    return [line for line in lines if not line.startswith(left_out) and not line.startswith("colorama")]


def _send(shell: SshShell, directory: Path, target: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(directory, arcname=".")
    command = ("sh", "-c", f"mkdir -p {target} && tar -xf - -C {target}")
    shell.run(command, deadline=_deadline(300), stdin=buffer.getvalue()).expect_success()


def _nestctl(shell: SshShell, *arguments: str, timeout_s: float = 600) -> tuple[int, str, str]:
    completed = shell.run((_NESTCTL, *arguments), deadline=_deadline(timeout_s))
    return completed.exit_code, completed.text, completed.stderr.decode()


def test_check_finds_hardware_nesting_and_chooses_kvm(server: SshShell) -> None:
    code, text, stderr = _nestctl(server, "check")
    assert (code, stderr) == (0, "")
    assert "NO" not in text.splitlines()[0]
    code, text, _ = _nestctl(server, "check", "--json")
    assert code == 0
    assert '"accelerator": "kvm"' in text


def test_settings_of_the_host_are_put_back_with_all_that_was_set_since_kvm_was_loaded(server: SshShell) -> None:
    """What 'bench tune --host' does around its boots: KVM's module is loaded again, and files of /sys are written."""
    halt_poll = "/sys/module/kvm/parameters/halt_poll_ns"
    server.run(("sh", "-c", f"echo 123456 > {halt_poll}"), deadline=_deadline(60)).expect_success()
    before = _read_settings(server)
    assert before[halt_poll] == "123456"
    settings = {setting.name: setting for setting in read_settings()}
    for name in ("npt-off", "halt-poll-off", "thp-never"):
        with changed_machine(server, settings[name]):
            changed = _read_settings(server)
        assert changed[settings[name].path] != before[settings[name].path]
        assert _read_settings(server) == before


def _read_settings(server: SshShell) -> dict[str, str]:
    script = (
        "cd /sys && grep -s '' module/kvm/parameters/* module/kvm_amd/parameters/* kernel/mm/transparent_hugepage/*"
    )
    text = server.run(("sh", "-c", script), deadline=_deadline(60)).text
    return {f"/sys/{path}": value for path, _, value in (line.partition(":") for line in text.splitlines())}


def test_render_gives_kvm_and_host_passthrough(server: SshShell, image: Image) -> None:
    lab = _LAB.format(image=image.name).encode()
    server.run(("sh", "-c", "cat > /root/lab.yaml"), deadline=_deadline(60), stdin=lab).expect_success()
    code, text, stderr = _nestctl(server, "render", "/root/lab.yaml")
    assert (code, stderr) == (0, "")
    assert "<domain type='kvm'" in text
    assert "<cpu mode='host-passthrough'" in text
    assert "mode='maximum'" not in text


def test_up_boots_a_kvm_guest_through_the_system_libvirt_and_down_removes_it(server: SshShell, image: Image) -> None:
    lab = _LAB.format(image=image.name).encode()
    server.run(("sh", "-c", "cat > /root/lab.yaml"), deadline=_deadline(60), stdin=lab).expect_success()
    try:
        code, _, stderr = _nestctl(server, "up", "/root/lab.yaml")
        assert code == 0, stderr
        assert "NO HARDWARE VIRTUALIZATION" not in stderr
        domains = server.run(("virsh", "-q", "-c", "qemu:///system", "list", "--name"), deadline=_deadline(60)).text
        assert "inner-leaf" in domains
        xml = server.run(("virsh", "-c", "qemu:///system", "dumpxml", "inner-leaf"), deadline=_deadline(60)).text
        assert "<domain type='kvm'" in xml
        code, text, _ = _nestctl(server, "ssh", "inner/leaf", "--", "systemd-detect-virt")
        assert (code, text) == (0, "kvm")
        code, text, _ = _nestctl(server, "status", "inner", "--json")
        assert code == 0
        assert '"accelerator": "kvm"' in text
    finally:
        code, _, stderr = _nestctl(server, "down", "inner")
    assert code == 0, stderr
    look = "ls -A /var/lib/nestctl; virsh -q -c qemu:///system list --all --name"
    left = server.run(("sh", "-c", look), deadline=_deadline(60)).expect_success().text
    # The note that the guest itself has had its seed.
    assert left.split() == ["seeded"]
