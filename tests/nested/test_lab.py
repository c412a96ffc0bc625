"""A guest in a guest, from a lab file, on this machine: what runs, and what each level says of itself."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

from tests.nested.harness import Lab, run


def _host(lab: Lab, guest: str) -> Host:
    return testinfra.get_host(f"ssh://{guest}", ssh_config=str(lab.ssh_config))


@pytest.fixture
def l1(lab: Lab) -> Host:
    return _host(lab, "l1")


@pytest.fixture
def l2(lab: Lab) -> Host:
    return _host(lab, "l2")


@pytest.fixture
def status(lab: Lab) -> dict[str, Any]:
    document = lab.nestctl("status", "--json").expect(0).json
    assert isinstance(document, dict)
    return document


def test_every_guest_runs_on_what_it_is_meant_to(status: dict[str, Any]) -> None:
    outer = status["guests"][0]
    inner = outer["guests"][0]
    assert status["is_up"]
    assert (outer["name"], outer["level"], outer["state"]) == ("l1", 1, "running")
    assert (inner["name"], inner["level"], inner["state"]) == ("l2", 2, "running")
    # The guest inside is KVM's, whatever runs the outer one.
    assert (inner["domain_type"], inner["accelerator"]) == ("kvm", "kvm")
    assert outer["accelerator"] == {"kvm": "kvm", "qemu": "qemu"}[outer["domain_type"]]


def test_a_command_runs_two_levels_down(lab: Lab) -> None:
    assert lab.nestctl("ssh", "l2", "--", "systemd-detect-virt").expect(0).stdout == "kvm\n"
    assert lab.nestctl("ssh", "demo/l2", "--", "sh", "-c", 'echo "$0"; exit 7', "a  b").expect(7).stdout == "a  b\n"


def test_l1_is_a_hypervisor(l1: Host) -> None:
    module = "kvm_intel" if l1.file("/sys/module/kvm_intel").exists else "kvm_amd"
    assert l1.file(f"/sys/module/{module}/parameters/nested").content_string.strip() in {"1", "Y"}
    assert l1.file("/dev/kvm").exists
    assert l1.run("virsh -c qemu:///system list --name").stdout.split() == ["demo-l2"]
    assert "<domain type='kvm'" in l1.run("virsh -c qemu:///system dumpxml demo-l2").stdout
    arguments = l1.process.get(comm="qemu-system-x86").args
    assert "-accel kvm" in arguments
    assert "-cpu host" in arguments


def test_l2_sees_kvm_and_could_go_deeper(l2: Host) -> None:
    assert l2.check_output("systemd-detect-virt --vm") == "kvm"
    flags = l2.file("/proc/cpuinfo").content_string
    assert " svm " in flags or " vmx " in flags
    assert l2.file("/dev/kvm").exists


@pytest.mark.parametrize("guest", ["l1", "l2"])
def test_guests_are_set_up_as_planned(lab: Lab, guest: str) -> None:
    host = _host(lab, guest)
    assert host.check_output("hostname") == guest
    assert host.check_output("systemctl is-system-running --wait") == "running"
    assert host.service("ssh").is_running
    key = host.file("/etc/ssh/ssh_host_ed25519_key")
    assert (key.user, key.mode) == ("root", 0o600)
    assert host.file("/root/.ssh/authorized_keys").mode == 0o600
    answer = host.run("sshd -T").stdout
    assert "passwordauthentication no" in answer
    assert "permitrootlogin without-password" in answer
    # The image brings no key and no identity of its own.
    assert len(host.run("ls /etc/ssh/ssh_host_*").stdout.split()) == 2
    assert host.mount_point("/").filesystem == "ext4"


def test_the_root_file_system_has_grown_to_the_size_in_the_lab_file(l1: Host, l2: Host) -> None:
    for host, gib in ((l1, 8), (l2, 4)):
        assert int(host.check_output("df --output=size -B1 / | tail -n 1")) > 0.9 * gib * 2**30


def test_no_inner_address_means_something_further_out(l1: Host, l2: Host) -> None:
    def subnets(text: str) -> list[ipaddress.IPv4Network]:
        return [ipaddress.IPv4Network(route["dst"]) for route in json.loads(text) if "/" in route["dst"]]

    here = subnets(run("ip", "-j", "-4", "route").expect(0).stdout)
    outer = subnets(l1.check_output("ip -j -4 route"))
    inner = subnets(l2.check_output("ip -j -4 route"))
    assert inner
    assert all(not subnet.overlaps(other) for subnet in outer for other in here)
    # L2's one network is the one L1 gives it, and not L1's own uplink.
    assert inner == [subnet for subnet in outer if subnet in inner]
    assert len(outer) == len(set(outer)) == 2


def test_guests_have_different_identities(l1: Host, l2: Host) -> None:
    for path in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key"):
        assert l1.file(path).content_string != l2.file(path).content_string


def test_up_again_changes_nothing(lab: Lab, l1: Host, l2: Host) -> None:
    def identify() -> tuple[str, str, list[str]]:
        return (
            l1.file("/proc/sys/kernel/random/boot_id").content_string,
            l2.file("/proc/sys/kernel/random/boot_id").content_string,
            lab.processes(),
        )

    before = identify()
    assert [guest["name"] for guest in lab.nestctl("up", "--json").expect(0).json["guests"]] == ["l1", "l2"]
    assert identify() == before


def test_two_at_once_do_not_disturb_each_other(lab: Lab) -> None:
    with lab.start("up") as first, lab.start("up") as second, lab.start("status") as third:
        codes = [process.wait(timeout=600) for process in (first, second, third)]
    assert codes == [0, 0, 0]


def test_render_prints_what_is_defined_there(lab: Lab, l1: Host) -> None:
    documents = lab.nestctl("render", "--json").expect(0).json["documents"]
    by_name = {(document["kind"], document["name"]): document for document in documents}
    rendered, wheres = by_name["domain", "demo-l2"]["xml"], {document["where"] for document in documents}
    assert wheres == {"this machine", "l1"}
    # libvirt adds addresses and defaults; what was sent is in there.
    defined = l1.check_output("virsh -c qemu:///system dumpxml --inactive demo-l2")
    for line in ("<cpu mode='host-passthrough' check='none' migratable='off'", "<serial>nestctl-root</serial>"):
        assert line in rendered
        assert line in defined
    mark = next(line.strip() for line in rendered.splitlines() if "<nestctl:guest" in line)
    assert mark.split("digest=")[1].split("'")[1] in defined


def test_a_changed_lab_file_is_refused_and_nothing_is_touched(lab: Lab) -> None:
    path = lab.directory / "lab.yaml"
    original = path.read_text()
    before = lab.processes()
    try:
        path.write_text(original.replace("cpus: 2", "cpus: 1"))
        refused = lab.nestctl("up").expect(2)
        assert "'l1' exists with other settings" in refused.stderr
        path.write_text(original.replace("disk_gib: 4", "disk_gib: 3"))
        assert "'l2' exists with other settings" in lab.nestctl("up").expect(2).stderr
    finally:
        path.write_text(original)
    assert lab.processes() == before
    lab.nestctl("up").expect(0)


def test_keys_are_private_and_in_no_log(lab: Lab) -> None:
    log = lab.directory / "log"
    lab.nestctl("--log-file", str(log), "up").expect(0)
    for name in ("keys.json", "client_key", "l1.seed.tar", "l1.qcow2"):
        assert (lab.kept / name).stat().st_mode & 0o077 == 0
    secret = (lab.kept / "client_key").read_text().splitlines()[1]
    assert log.stat().st_size > 0
    assert secret not in log.read_text()


def test_bench_measures_and_labels_every_level(lab: Lab, tmp_path: Path) -> None:
    completed = lab.nestctl("bench", "--quick", "--json", "--output", str(tmp_path)).expect(0)
    levels = {level["name"]: level for level in completed.json["levels"]}
    assert list(levels) == ["L0", "l1", "l2"]
    status = lab.nestctl("status", "--json").expect(0).json
    is_emulated = status["guests"][0]["domain_type"] == "qemu"
    assert [levels[name]["is_emulated"] for name in ("l1", "l2")] == [is_emulated] * 2
    report = next(tmp_path.glob("*.html")).read_text()
    assert ("emulated, not the cost of hardware" in report) is is_emulated
    assert "<svg" in report
    measured = {
        (call["level"], outcome["workload"])
        for call in completed.json["calls"]
        for outcome in call["outcomes"]
        if outcome["samples"]
    }
    assert {("l1", "cpuid_exit"), ("l2", "cpuid_exit"), ("L0", "cpu"), ("l2", "memory_latency")} <= measured


def test_a_hypervisor_that_lost_its_kvm_is_not_given_emulated_guests(lab: Lab, l1: Host) -> None:
    """Without this check QEMU would run L2 in software, thousands of times slower, and nobody would know."""
    module = "kvm_intel" if l1.file("/sys/module/kvm_intel").exists else "kvm_amd"
    l1.run_test("virsh -c qemu:///system destroy demo-l2")
    assert l1.run(f"modprobe -r {module}").rc == 0
    l1.run_test(f"echo 'install {module} /bin/false' > /etc/modprobe.d/no-kvm.conf")
    try:
        refused = lab.nestctl("up").expect(4)
        assert "has no working KVM" in refused.stderr
        assert "silently be emulated" in refused.stderr
        assert lab.nestctl("status").expect(1).exit_code == 1
    finally:
        l1.run_test("rm -f /etc/modprobe.d/no-kvm.conf")
    lab.nestctl("up", timeout_s=900).expect(0)
    assert lab.nestctl("ssh", "l2", "--", "systemd-detect-virt").expect(0).stdout == "kvm\n"
