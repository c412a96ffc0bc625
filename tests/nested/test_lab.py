"""A guest in a guest, from a lab file, on this machine: what runs, and what each level says of itself."""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

from nestctl.adapters.agent import run_agent
from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Completed
from nestctl.check.assess import assess
from nestctl.check.findings import Status, Verdict
from nestctl.deadline import Deadline
from nestctl.model.facts_document import parse_facts
from tests.nested.harness import Lab, run


def _host(lab: Lab, guest: str) -> Host:
    return testinfra.get_host(f"ssh://{guest}", ssh_config=str(lab.ssh_config))


@dataclass(frozen=True, kw_only=True)
class _Guest:
    """A shell in a lab's guest, through the configuration that nestctl writes for ssh."""

    lab: Lab
    where: str

    def run(self, command: Sequence[str], *, deadline: Deadline, stdin: bytes = b"") -> Completed:
        ssh = ("ssh", "-F", str(self.lab.ssh_config), self.where, shlex.join(command))
        return LocalShell().run(ssh, deadline=deadline, stdin=stdin)


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


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_a_guest_of_a_guest_runs_in_every_guest_of_a_lab(lab: Lab, name: str) -> None:
    """In l2 that is a fourth level: the hypervisor of l1 emulates for l2 what is emulated for itself."""
    deadline = Deadline.after(120, "Collecting facts")
    collected = run_agent(_Guest(lab=lab, where=name), ("facts",), deadline=deadline)
    run = collected["kvm"]["nested_run"]["value"]
    assert run["failure"] == "", run
    assert run["exits_of_all_runs"] >= run["exits"] > 0
    assessment = assess(parse_facts(collected))
    assert assessment.can_nest.verdict is Verdict.YES
    assert "a guest of a guest ran machine code" in assessment.can_nest.reason
    assert {it.name: it.status for it in assessment.findings}["nested.proof"] is Status.PASS


def test_for_strangers_a_vendor_s_kernel_is_not_taken_for_safe(lab: Lab) -> None:
    """L1 gives its guests SVM, and has Debian's kernel without the changelog of its package."""
    checked = lab.nestctl("check", "--untrusted", "--json", "demo/l1").expect(3).json
    assert checked["counts_safety"] is True
    verdicts = {question: answer["verdict"] for question, answer in checked["questions"].items()}
    assert (verdicts["can_nest"], verdicts["safe_for_tenants"], checked["verdict"]) == ("yes", "unknown", "unknown")
    kernel = next(finding for finding in checked["findings"] if finding["name"] == "safety.kernel")
    assert kernel["status"] == "unknown"
    assert "vendor status unknown: Debian" in kernel["summary"]


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
    log = lab.directory / "log-of-up"
    again = lab.nestctl("--log-file", str(log), "up", "--json").expect(0)
    assert [guest["name"] for guest in again.json["guests"]] == ["l1", "l2"]
    assert identify() == before
    # One command a guest, on one connection: beside it only l1's libvirt is asked, in a channel of the same connection.
    assert re.findall(r"nestctl.adapters.ssh: run on (\S+):", log.read_text()) == ["l1.demo", "l2.demo"]


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
        path.write_text(original.replace("l1:\n    cpus: 1", "l1:\n    cpus: 2"))
        refused = lab.nestctl("up").expect(2)
        assert "'l1' exists with other settings: cpus 1 -> 2" in refused.stderr
        path.write_text(original.replace("disk_gib: 4", "disk_gib: 3"))
        assert "'l2' exists with other settings: disk_gib 4 -> 3" in lab.nestctl("up").expect(2).stderr
        plan = lab.nestctl("plan", "--json").expect(1).json
        assert plan["guests"][0]["action"] == "keep"
        assert plan["guests"][0]["guests"][0]["action"] == "recreate"
    finally:
        path.write_text(original)
    assert lab.processes() == before
    assert "nothing to do" in lab.nestctl("plan").expect(0).stdout
    lab.nestctl("up").expect(0)


def test_what_was_broken_behind_our_back_is_seen_at_every_level_and_mended(lab: Lab, l1: Host) -> None:
    """L2 stopped, with settings it does not have, gone, and there without its disk; labels changed on the way."""
    path = lab.directory / "lab.yaml"
    original = path.read_text()
    virsh = "virsh -q -c qemu:///system"

    def inner() -> tuple[str, str]:
        found = lab.nestctl("plan", "--json").expect(1).json["guests"][0]["guests"][0]
        said = [f"{it['setting']} {it['there']} -> {it['wanted']}" for it in found["differences"]]
        return found["action"], ", ".join([found["reason"], *said] if found["reason"] else said)

    before = lab.processes()
    try:
        l1.run_test(f"{virsh} destroy demo-l2")
        assert inner() == ("start", "it is off")
        l1.run_test(f'{virsh} dumpxml demo-l2 | sed \'s/"disk_gib":4/"disk_gib":5/\' > /tmp/edited.xml')
        l1.run_test(f"{virsh} define /tmp/edited.xml")
        assert inner() == ("recreate", "disk_gib 5 -> 4")
        assert "disk_gib 5 -> 4" in lab.nestctl("up").expect(2).stderr
        l1.run_test(f"{virsh} undefine demo-l2")
        assert inner() == ("create", "")
        l1.run_test(f"{virsh} define /tmp/edited.xml && rm /var/lib/nestctl/guests/demo/l2.qcow2")
        assert inner() == ("create", "its disk is gone")
        path.write_text(original.replace("l1:\n", "l1:\n    labels: {owner: me}\n"))
        assert "1 to create, 1 to change" in lab.nestctl("up", "--dry-run").expect(1).stdout
        lab.nestctl("up").expect(0)
        assert "nothing to do" in lab.nestctl("plan").expect(0).stdout
    finally:
        path.write_text(original)
        l1.run("rm -f /tmp/edited.xml")
    lab.nestctl("up").expect(0)
    lab.nestctl("plan").expect(0)
    assert lab.nestctl("ssh", "l2", "--", "systemd-detect-virt").expect(0).stdout == "kvm\n"
    assert lab.processes() == before


def test_the_lab_is_listed_with_its_age_and_all_its_traces_are_found(lab: Lab, status: dict[str, Any]) -> None:
    assert status["guests"][0]["age_s"] > 0
    assert status["guests"][0]["guests"][0]["age_s"] > 0
    (listed,) = lab.nestctl("list", "--json").expect(0).json["labs"]
    assert {key: listed[key] for key in ("name", "outermost", "running", "guests")} == {
        "name": "demo",
        "outermost": 1,
        "running": 1,
        "guests": 2,
    }
    traces = lab.nestctl("audit", "demo", "--json").expect(1).json["traces"]
    kinds = {trace["kind"] for trace in traces}
    assert {"domain", "process", "port", "disk", "seed", "key", "file"} <= kinds
    port = status["guests"][0]["ssh_port"]
    assert f"127.0.0.1:{port}" in [trace["name"] for trace in traces]


def test_a_nestctl_inside_would_be_told_what_is_taken_further_out(l1: Host) -> None:
    taken = l1.file("/etc/nestctl/subnets").content_string.split()
    outer, inner = (ipaddress.IPv4Network(text) for text in taken[:2])
    routes = [route["dst"] for route in json.loads(l1.check_output("ip -j -4 route"))]
    assert {str(outer), str(inner)} <= set(routes)


def test_keys_are_private_and_in_no_log(lab: Lab) -> None:
    log = lab.directory / "log"
    lab.nestctl("--log-file", str(log), "up").expect(0)
    for name in ("keys.json", "client_key", "l1.seed.tar", "l1.qcow2"):
        assert (lab.kept / name).stat().st_mode & 0o077 == 0
    secret = (lab.kept / "client_key").read_text().splitlines()[1]
    assert log.stat().st_size > 0
    assert secret not in log.read_text()


def test_bench_measures_and_labels_every_level(lab: Lab, tmp_path: Path) -> None:
    completed = lab.nestctl("bench", "--quick", "--rounds=1", "--json", "--output", str(tmp_path)).expect(0)
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
    # Every exit in a real KVM guest was counted by KVM itself, and the deepest level was measured as its own control.
    samples = [
        sample
        for call in completed.json["calls"]
        for outcome in call["outcomes"]
        if call["level"] in ("l1", "l2") and outcome["workload"] == "hypercall_exit"
        for sample in outcome["samples"]
    ]
    assert samples
    assert all(sample["exits"] >= sample["operations"] and not sample["void"] for sample in samples)
    assert {call["level"] for call in completed.json["calls"] if call["is_control"]} == {"l2"}
    assert levels["l1"]["environment"]["qemu"].startswith("QEMU emulator version")
    assert "A/A" in lab.nestctl("bench", "show", str(next(tmp_path.glob("*.json")))).expect(0).stdout


def test_every_way_out_of_a_guest_has_a_price_under_real_kvm(lab: Lab, tmp_path: Path) -> None:
    """l1 has KVM with its counters: nothing but what needs two CPUs may be missing or contradicted there."""
    names = ["msr_write_exit", "port_kernel_exit", "port_user_exit", "mmio_user_exit", "notify_exit", "timer_exit"]
    names += ["nested_exit", "dirty_log", "vcpu_create", "syscall", "sysbench_cpu"]
    words = [f"--workload={name}" for name in (*names, "wake_other_cpu")]
    arguments = ("--quick", "--rounds=1", "--json", "--output", str(tmp_path), *words)
    results = lab.nestctl("bench", *arguments).expect(0).json
    outcomes = [outcome for call in results["calls"] if call["level"] == "l1" for outcome in call["outcomes"]]
    missing = {outcome["workload"]: outcome["not_measured"] for outcome in outcomes}
    assert "CPU" in missing.pop("wake_other_cpu")
    assert missing == dict.fromkeys(names, "")
    assert [sample["void"] for outcome in outcomes for sample in outcome["samples"] if sample["void"]] == []


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
