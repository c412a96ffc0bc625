"""Two tenants on real bridges, with libvirt's daemon, filters and cgroups, in namespaces of the test's own.

Every attack is one: tried in a tenant's guest, and looked for where it would arrive. Then the same is tried with the
filters opened behind nestctl's back, and arrives: what is not seen before could have been. `nestctl up` closes them.

blue has a guest inside, green must not nest. Both boot at once, and go through all of it, as booting takes the time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from nestctl.errors import ExitCode
from nestctl.image.store import Image
from nestctl.lab.network_plan import bridge_name
from tests.needs import missing, need_program
from tests.nested.harness import Completed, Lab, give_one_cpu, run, wait_until

HERE = Path(__file__).parent

LAB = """
name: isp
trust: untrusted
networks:
  blue: {}
  green: {}
defaults: {memory_mib: 512, disk_gib: 4}
guests:
  blue:
    network: blue
    memory_mib: 1088
    quota: {disk_write_mib_s: 8}
    guests:
      blue-vm:
        quota: {network_out_mbit_s: 16, memory_limit_mib: 960, network_in_mbit_s: 8}
  green:
    network: green
    nesting: false
"""

# What may be changed while they run.
CHANGED = (
    LAB.replace("disk_write_mib_s: 8", "disk_write_mib_s: 64")
    .replace(", network_in_mbit_s: 8", "")
    .replace("nesting: false", "nesting: false\n    quota: {cpu_cap_percent: 60}")
)

# SSH, libvirt, and a management page of this machine's; a port for datagrams.
HOST_PORTS = (22, 16509, 8006)
HOST_DATAGRAMS = 9999
PUBLIC, OUTSIDE = "192.0.2.1", "198.51.100.2"

# What the hypervisor's kernel holds its guest to: the memory of its QEMU, and what may come in from its interface.
LIMITS = "cat /sys/fs/cgroup/machine.slice/machine-qemu*/libvirt/memory.max && tc filter show dev vnet0 ingress"

SERVE = """
import socket
server = socket.create_server(("", 7000))
while True:
    connection, _ = server.accept()
    connection.sendall(bytes(3_000_000))
    connection.close()
"""
FETCH = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 7000)) as client:
    client.recv(1)
    begun, size = time.monotonic(), 0
    while got := len(client.recv(65536)):
        size += got
print(size * 8 / 1e6 / (time.monotonic() - begun))
"""


@contextmanager
def machine(directory: Path, *, remembers_owners: bool = False) -> Iterator[tuple[str, ...]]:
    """Start libvirt's daemon in namespaces; the words that run a command there are the value."""
    words = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
    with (directory / "log").open("w") as log:
        outer = subprocess.Popen(
            (*words, "sh", str(HERE / "namespace.sh"), str(directory / "m"), str(int(remembers_owners))),
            stdout=log,
            stderr=log,
        )
        try:
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
            wait_until(lambda: outer.poll() is not None or children.read_text().split(), timeout_s=20)
            inside = children.read_text().split()[0]
            prefix = ("nsenter", "--target", inside, "--net", "--mount", "--pid", f"--wd={directory}")
            socket = directory / "m/run/libvirt-sock"
            wait_until(lambda: outer.poll() is not None or socket.exists(), timeout_s=30)
            assert outer.poll() is None, (directory / "log").read_text()
            yield prefix
        finally:
            outer.kill()
            outer.wait()


def need_daemon() -> None:
    if os.geteuid() != 0:
        missing("network namespaces and libvirt's daemon need root")
    for program, package in (("libvirtd", "libvirt-daemon"), ("virtlogd", "libvirt-daemon"), ("iptables", "iptables")):
        need_program(program, package)
    need_program("ebtables", "iptables")


@contextmanager
def open_lab(image: Image, name: str) -> Iterator[Lab]:
    """A lab on a machine of its own, with libvirt's daemon; nothing of it may stay there."""
    need_daemon()
    if not Path("/etc/libvirt/nwfilter/clean-traffic.xml").exists():
        missing("clean-traffic is not there (package 'libvirt-daemon-config-nwfilter')")
    assert image.disk.exists()
    with TemporaryDirectory(prefix="n-", dir="/tmp") as path:
        directory = Path(path)
        # QEMU is another account.
        directory.chmod(0o711)
        with machine(directory) as prefix:
            lab = Lab(directory=directory, name=name, prefix=prefix)
            try:
                yield lab
            finally:
                lab.nestctl("down", name, timeout_s=600)
                assert lab.nestctl("audit", name).expect(0).stdout == ""
                assert "nestctl" not in here(lab, "virsh", "nwfilter-list").stdout
                assert bridge_name(name, "blue") not in here(lab, "ls", "/sys/class/net").stdout
                lab.expect_nothing_left()


@pytest.fixture
def tenants(image: Image) -> Iterator[Lab]:
    with open_lab(image, "isp") as lab:
        lab.write(LAB)
        yield lab


def has_traffic_control(lab: Lab) -> bool:
    """Tell whether this machine's kernel can limit an interface as libvirt does (sch_htb, sch_sfq, act_police)."""
    script = """
        ip link add limited type dummy && trap 'ip link del limited' EXIT &&
        tc qdisc add dev limited root handle 1: htb && tc class add dev limited parent 1: classid 1:1 htb rate 1mbit &&
        tc qdisc add dev limited parent 1:1 sfq && tc qdisc add dev limited ingress &&
        tc filter add dev limited parent ffff: protocol all u32 match u32 0 0 police rate 1mbit burst 10k drop
    """
    return run(*lab.prefix, "sh", "-c", script).exit_code == 0


@pytest.fixture
def template(image: Image) -> Iterator[Lab]:
    """The lab of `nestctl init --template tenants`, with one CPU for each guest and less memory.

    Without limits of the network where this machine's kernel has none.
    """
    with open_lab(image, "tenants") as lab:
        lab.nestctl("init", "--template", "tenants").expect(0)
        path = lab.directory / "lab.yaml"
        give_one_cpu(path)
        if not has_traffic_control(lab):
            lines = path.read_text().splitlines(keepends=True)
            path.write_text("".join(line for line in lines if "_mbit_s" not in line))
        path.write_text(path.read_text().replace("memory_mib: 1024\n    nesting", "memory_mib: 512\n    nesting"))
        yield lab


def test_nothing_crosses_between_tenants(tenants: Lab) -> None:
    _risks_are_shown_and_have_to_be_accepted(tenants)
    tenants.nestctl("up", timeout_s=1800).expect(0)
    assert tenants.nestctl("plan").expect(0).stdout.startswith("isp: nothing to do")
    addresses = {it["name"]: it["address"] for it in _guests(tenants)}
    _lead_the_way_into_blue(tenants, addresses)
    with listening(tenants) as heard:
        attack_all(tenants, addresses, "closed")
        _expect_closed(heard("closed"))
        before = _measure(tenants, addresses)
        _open_the_filters(tenants)
        attack_all(tenants, addresses, "open")
        _expect_open(heard("open"))
        _all_is_put_right_while_they_run(tenants, addresses, before)
        # libvirt's own rules are still gone: it is the filters that keep the two apart.
        assert attack(tenants, "green", "again", addresses, is_spoofing=True) == {"outside"}
        assert heard("again")["green"] == {("bridge", "own")}


def test_the_template_is_brought_up_as_it_is(template: Lab) -> None:
    risks = template.nestctl("plan", "--json").expect(ExitCode.NO).json["risks"]
    if names := ", ".join(it["name"] for it in risks if it["status"] != "unknown"):
        path = template.directory / "lab.yaml"
        path.write_text(path.read_text().replace("# accepted_risks: [safety.smt]", f"accepted_risks: [{names}]"))
    template.nestctl("up", timeout_s=1800).expect(0)
    guests = {it["name"]: it for it in template.nestctl("status", "--json").expect(0).json["guests"]}
    inside = {name: [it["name"] for it in guest["guests"]] for name, guest in guests.items()}
    assert inside == {"blue": ["blue-vm-1", "blue-vm-2"], "green": ["green-vm"], "red": []}
    ran = template.nestctl("exec", "--json", "tenants/*-vm*", "--", "systemd-detect-virt").expect(0).json["guests"]
    assert [(it["name"], it["stdout"]) for it in ran] == [
        (name, "kvm\n") for name in ("blue-vm-1", "blue-vm-2", "green-vm")
    ]
    assert template.nestctl("exec", "red", "--", "grep", "-cE", "svm|vmx", "/proc/cpuinfo").expect(1).stdout == "0\n"
    # One tenant's guest reaches the world, red's does not, and neither the other tenant.
    fetch = "exec 3<>/dev/tcp/$1/$2 && head -n 1 <&3"
    assert _bash(template, "blue-vm-1", fetch, OUTSIDE, "80").stdout == "outside\n"
    assert _bash(template, "red", fetch, OUTSIDE, "80").exit_code != 0
    assert _bash(template, "red", fetch, guests["blue"]["address"], "22").exit_code != 0
    assert _bash(template, "blue", fetch, guests["green"]["address"], "22").exit_code != 0
    assert _bash(template, "blue", fetch, guests["blue"]["guests"][0]["address"], "22").stdout.startswith("SSH-")
    assert template.nestctl("plan").expect(0).stdout.startswith("tenants: nothing to do")


def _bash(lab: Lab, guest: str, script: str, *words: str) -> Completed:
    return lab.nestctl("exec", guest, "--", "timeout", "10", "bash", "-c", script, "bash", *words)


def _risks_are_shown_and_have_to_be_accepted(lab: Lab) -> None:
    """This machine's own findings, whatever they are; guests are emulated here, or its kernel is looked at."""
    risks = [it for it in lab.nestctl("plan", "--json").expect(ExitCode.NO).json["risks"] if it["status"] != "unknown"]
    if not risks:
        return
    refused = lab.nestctl("up").expect(ExitCode.NOT_FOUND_OUT)
    assert "no place for untrusted guests" in refused.stderr
    assert lab.processes() == []
    names = ", ".join(it["name"] for it in risks)
    assert f"accepted_risks: [{names}]" in refused.stderr
    lab.write(f"accepted_risks: [{names}]{LAB}")


def _guests(lab: Lab) -> list[dict[str, Any]]:
    document: dict[str, Any] = json.loads((lab.kept / "guests.json").read_text())
    return list(document["guests"])


def here(lab: Lab, *command: str) -> Completed:
    """Run something on the tenants' host."""
    return run(*lab.prefix, *command).expect(0)


@contextmanager
def listening(lab: Lab) -> Iterator[Any]:
    """Listen on the host; the value is a function that says what was heard under a tag, by the guest it is of."""
    bridges = {bridge_name("isp", name): name for name in ("blue", "green")}
    ports = ",".join(map(str, HOST_PORTS))
    command = (*lab.prefix, sys.executable, str(HERE / "listen.py"), ports, str(HOST_DATAGRAMS), *bridges)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        lines: list[list[str]] = []
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: lines.extend(line.split() for line in iter(process.stdout)))  # type: ignore[arg-type]
            try:
                yield lambda tag: _sort(lines, tag)
            finally:
                assert process.stdin
                process.stdin.close()


def _sort(lines: list[list[str]], tag: str) -> dict[str, set[tuple[str, str]]]:
    heard: dict[str, set[tuple[str, str]]] = {"blue": set(), "green": set(), "blue-vm": set()}
    for where, kind, who in list(lines):
        guest, _, of = who.rpartition("-")
        if of == tag:
            heard[guest].add(("host" if where == "host" else "bridge", kind))
    return heard


def attack(lab: Lab, guest: str, tag: str, addresses: Mapping[str, str], *, is_spoofing: bool) -> set[str]:
    """Try everything from a guest; return the names of what was reached."""
    gateway = addresses[guest.removesuffix("-vm")].rpartition(".")[0] + ".1"
    others = [it for it in ("blue", "green") if not guest.startswith(it)]
    tcp: list[list[Any]] = [
        *([f"host {at} {port}", at, port, 0] for at in (gateway, PUBLIC) for port in HOST_PORTS),
        # What answers from SSH's port is let through; what begins there is not.
        *([[f"host {gateway} from 22", gateway, 16509, 22]] if is_spoofing and guest == "green" else []),
        *([it, addresses[it], 22, 0] for it in others),
        *([["blue-vm", addresses["blue-vm"], 22, 0]] if guest != "blue-vm" else []),
        ["outside", OUTSIDE, 80, 0],
    ]
    wanted = {
        "tag": f"{guest}-{tag}",
        "spoof": is_spoofing,
        "tcp": tcp,
        "udp": [[gateway, HOST_DATAGRAMS], [PUBLIC, HOST_DATAGRAMS]],
    }
    script = (HERE / "attack.py").read_text()
    said = lab.nestctl("exec", guest, "--", "python3", "-c", script, json.dumps(wanted)).expect(0)
    return {it.replace(gateway, "gateway").replace(PUBLIC, "public") for it in json.loads(said.stdout)}


REACHED: dict[str, dict[str, set[str]]] = {}


def attack_all(lab: Lab, addresses: Mapping[str, str], tag: str) -> None:
    guests = ("blue", "green", "blue-vm")
    with ThreadPoolExecutor(len(guests)) as pool:
        results = pool.map(lambda it: attack(lab, it, tag, addresses, is_spoofing=it != "blue-vm"), guests)
        REACHED[tag] = dict(zip(guests, results, strict=True))


def _expect_closed(heard: Mapping[str, set[tuple[str, str]]]) -> None:
    """Out to the world, and a tenant's own guests: nothing else is reached, and nothing forged gets onto a bridge."""
    assert REACHED["closed"] == {"blue": {"blue-vm", "outside"}, "green": {"outside"}, "blue-vm": {"outside"}}
    assert heard == {"blue": {("bridge", "own")}, "green": {("bridge", "own")}, "blue-vm": set()}


def _expect_open(heard: Mapping[str, set[tuple[str, str]]]) -> None:
    host = {f"host {at} {port}" for at in ("gateway", "public") for port in HOST_PORTS}
    reached = REACHED["open"]
    assert reached["blue"] == {*host, "green", "blue-vm", "outside"}
    assert reached["green"] >= {*host, "blue", "blue-vm", "outside"}
    assert reached["blue-vm"] == {*host, "green", "outside"}
    forged = {("bridge", kind) for kind in ("own", "arp", "mac", "ip", "udp")} | {("host", "udp")}
    assert heard["blue"] >= forged
    assert heard["green"] >= forged
    assert heard["blue-vm"] >= {("host", "udp")}


def _lead_the_way_into_blue(lab: Lab, addresses: Mapping[str, str]) -> None:
    """Have the host and blue itself pass on what is for blue's guest: all the while, so that filters alone decide."""
    subnet = addresses["blue-vm"].rpartition(".")[0] + ".0/24"
    here(lab, "ip", "route", "add", subnet, "via", addresses["blue"])
    lab.nestctl("exec", "blue", "--", "iptables", "-I", "FORWARD", "-d", subnet, "-j", "ACCEPT").expect(0)


def _open_the_filters(lab: Lab) -> None:
    """Take away what nestctl put between tenants, and what libvirt's networks keep apart by themselves."""
    for name in ("nestctl.isp.blue", "nestctl.isp.green"):
        xml = here(lab, "virsh", "nwfilter-dumpxml", name).stdout
        head, identity = xml.split("\n", 1)[0], xml.split("<uuid>")[1].split("</uuid>")[0]
        (lab.directory / "open.xml").write_text(f"{head}<uuid>{identity}</uuid></filter>")
        here(lab, "virsh", "nwfilter-define", str(lab.directory / "open.xml"))
    for chain in ("LIBVIRT_FWI", "LIBVIRT_FWO"):
        here(lab, "iptables", "-F", chain)


def _measure(lab: Lab, addresses: Mapping[str, str]) -> tuple[float, float]:
    """Say what blue can write, and what its guest can fetch, as long as that is limited."""
    assert lab.nestctl("exec", "green", "--", "grep", "-cE", "svm|vmx", "/proc/cpuinfo").expect(1).stdout == "0\n"
    lab.nestctl("exec", "blue", "--", "sh", "-c", f"python3 -c '{SERVE}' >/dev/null 2>&1 </dev/null &").expect(0)
    write_mib_s, fetch_mbit_s = _write_mib_s(lab), _fetch_mbit_s(lab, addresses)
    # The bucket that evens a limit out may be spent at once.
    assert write_mib_s < 1.5 * 8
    assert fetch_mbit_s < 1.5 * 8
    limits = lab.nestctl("exec", "blue", "--", "sh", "-c", LIMITS).expect(0).stdout
    assert limits.startswith(f"{960 << 20}\n")
    assert re.search(r"\bpolice .*\brate 16Mbit\b", limits)
    return write_mib_s, fetch_mbit_s


def _all_is_put_right_while_they_run(lab: Lab, addresses: Mapping[str, str], before: tuple[float, float]) -> None:
    booted = _boot_ids(lab)
    lab.write((lab.directory / "lab.yaml").read_text().splitlines()[0] + CHANGED)
    shown = lab.nestctl("plan").expect(ExitCode.NO).stdout
    assert shown.startswith("isp: 5 to change")
    assert shown.count("its filter is another one") == 2
    lab.nestctl("up", timeout_s=600).expect(0)
    assert _boot_ids(lab) == booted
    assert _write_mib_s(lab) > 1.5 * before[0]
    assert _fetch_mbit_s(lab, addresses) > 1.5 * before[1]
    assert _share_of_a_cpu(lab, "green") < 0.8


def _boot_ids(lab: Lab) -> dict[str, str]:
    ran = lab.nestctl("exec", "--json", "isp/*", "--", "cat", "/proc/sys/kernel/random/boot_id").expect(0).json
    return {it["name"]: it["stdout"] for it in ran["guests"]}


def _write_mib_s(lab: Lab) -> float:
    command = (
        "s=$(date +%s%N); dd if=/dev/zero of=/root/x bs=1M count=12 oflag=direct 2>/dev/null; echo $(($(date +%s%N)-s))"
    )
    took_ns = float(lab.nestctl("exec", "blue", "--", "sh", "-c", command).expect(0).stdout)
    return 12 / (took_ns / 1e9)


def _fetch_mbit_s(lab: Lab, addresses: Mapping[str, str]) -> float:
    gateway = addresses["blue-vm"].rpartition(".")[0] + ".1"
    return float(lab.nestctl("exec", "blue-vm", "--", "python3", "-c", FETCH, gateway).expect(0).stdout)


def _share_of_a_cpu(lab: Lab, guest: str) -> float:
    """How much of a CPU the QEMU of a guest gets that would like a whole one, by the kernel's own count."""
    script = f"""
        pid=$(pgrep -f guest=isp-{guest}, | head -1)
        used() {{ cut -d' ' -f14,15 /proc/$pid/stat | tr ' ' +; }}
        before=$(used); sleep 3; after=$(used)
        echo $(( (after) - (before) ))
    """
    with lab.start("exec", guest, "--", "timeout", "20", "sh", "-c", "while :; do :; done"):
        run("sleep", "2")
        ticks = float(here(lab, "bash", "-c", script).stdout)
    return ticks / os.sysconf("SC_CLK_TCK") / 3
