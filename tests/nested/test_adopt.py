"""A domain that nestctl did not make, as the L1 of a lab: gone into, used, left, and found to be what it was before.

It is one that lets no root in: 'ada' may use sudo, and nothing that she makes is open to others unless she says so.
'bob' may not use sudo at first, and sshd looks for his keys elsewhere than other programs do.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nestctl.image.store import Image
from nestctl.lab.host import plan_on, read_host
from nestctl.lab.keys import LabKeys, ensure_keys
from nestctl.lab.plan import GuestPlan
from nestctl.lab.render import render_domain
from nestctl.lab.seed import render_seed
from nestctl.model import lab as model
from nestctl.model.seed import File, Seed, User
from tests.needs import need_program
from tests.nested.harness import Lab, run, wait_until

# One process at a time has libvirt's embedded driver.
_LIBVIRT = """
import sys
from nestctl.adapters.uri import choose_uri
from nestctl.lab.host import open_connection
with open_connection(choose_uri(None)) as hypervisor:
    domains = hypervisor.connection
    if sys.argv[1] == "define":
        domains.defineXML(sys.stdin.read())
    elif sys.argv[1] == "start":
        domains.lookupByName("hv1").create()
    elif sys.argv[1] == "remove":
        hypervisor.remove_domain("hv1")
    elif sys.argv[1] == "show":
        # What is there while it runs, and what it is started with: libvirt's flag 2 is VIR_DOMAIN_XML_INACTIVE.
        print(domains.lookupByName("hv1").XMLDesc(0) + domains.lookupByName("hv1").XMLDesc(2))
        print(sorted(it.name() for it in domains.listAllDomains()))
"""

_SUDOERS = """\
Defaults env_reset, secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ada ALL=(ALL) NOPASSWD: ALL
@includedir /etc/sudoers.d
"""
_SSHD = "PermitRootLogin no\nMatch User bob\n    AuthorizedKeysFile /etc/ssh/keys-of-%u\n"
_COMMANDS = (
    # Her own file of keys does not end with a newline.
    'keys=$(cat ~ada/.ssh/authorized_keys); printf %s "$keys" > ~ada/.ssh/authorized_keys; chmod o= ~ada',
    "sed -i '1i umask 077' ~ada/.bashrc",
)

_ACCOUNTS = {"hv": "ada", "hv-bob": "bob", "hv-root": "root"}


@dataclass(frozen=True)
class Hand:
    """A hypervisor that somebody has made by hand, and the lab that is to adopt it; `hv` is ada's way into it."""

    lab: Lab
    port: int

    def libvirt(self, doing: str, xml: str = "") -> str:
        environment = {**os.environ, **self.lab.environment, "NESTCTL_STATE": str(self.lab.state)}
        command = (sys.executable, "-c", _LIBVIRT, doing)
        return subprocess.run(command, input=xml, env=environment, capture_output=True, text=True, check=True).stdout

    def ssh(self, text: str) -> str:
        config = self.lab.directory / "home/.ssh/config"
        return run("ssh", "-F", str(config), "hv", "sudo", "sh", "-c", shlex.quote(text), timeout_s=60).expect(0).stdout

    def is_up(self) -> bool:
        config = self.lab.directory / "home/.ssh/config"
        options = ("-o", "ConnectTimeout=5", "-F", str(config))
        return run("ssh", *options, "hv", "systemctl is-system-running --wait", timeout_s=120).exit_code in {0, 1}


@pytest.fixture
def hand(image: Image, state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hand]:
    assert image.disk.exists()
    lab = Lab(directory=state.parent, name="adopted", environment={"HOME": str(state.parent / "home")})
    made = state.parent / "by-hand"
    made.mkdir()
    monkeypatch.setenv("NESTCTL_STATE", str(made))
    keys = ensure_keys(state.parent / "keys.json", ["hv"])
    guests = {"hv": model.Guest(memory_mib=1280, nesting=True, seed=_seed(keys.client.public))}
    (plan,) = plan_on(read_host(None), model.Lab(name="hand", guests=guests), ())
    _place_files(plan, keys)
    _write_home(state.parent / "home/.ssh", plan, keys)
    monkeypatch.delenv("NESTCTL_STATE")
    hand = Hand(lab=lab, port=plan.uplink.port)
    hand.libvirt("define", _plain_xml(plan))
    try:
        yield hand
    finally:
        hand.lab.nestctl("down", "adopted", timeout_s=300)
        hand.libvirt("remove")
        hand.lab.expect_nothing_left()


def _seed(key: str) -> Seed:
    return Seed(
        files=(
            File(path="/etc/sudoers", content=_SUDOERS, mode="0440"),
            File(path="/etc/ssh/sshd_config.d/00-own.conf", content=_SSHD),
            File(path="/etc/ssh/keys-of-bob", content=f"{key}\n"),
        ),
        users=tuple(User(name=name, ssh_keys=(key,)) for name in ("ada", "bob")),
        commands=_COMMANDS,
    )


def _place_files(plan: GuestPlan, keys: LabKeys) -> None:
    Path(plan.disk).parent.mkdir(parents=True)
    Path(plan.seed).write_bytes(render_seed(plan, keys))
    _add_sudo(Path(plan.seed))
    command = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(plan.place.base))
    run(*command, str(plan.disk), f"{plan.disk_gib}G").expect(0)


def _add_sudo(seed: Path) -> None:
    """Put sudo in with the seed: this machine's own, the image is of the same distribution."""
    need_program("sudo", "sudo")
    files = run("dpkg", "--listfiles", "sudo").expect(0).stdout.split()
    with tarfile.open(seed, "a", format=tarfile.USTAR_FORMAT) as archive:
        for file in map(Path, files):
            if file.is_file() and not file.is_relative_to("/usr/share") and file != Path("/etc/sudoers"):
                archive.add(file, str(file).lstrip("/"))


def _plain_xml(plan: GuestPlan) -> str:
    """What somebody could have written: no mark, a name and a UUID of their own."""
    root = ElementTree.fromstring(render_domain(plan))  # noqa: S314
    metadata, name, identity = root.find("metadata"), root.find("name"), root.find("uuid")
    assert metadata is not None
    assert name is not None
    assert identity is not None
    root.remove(metadata)
    name.text, identity.text = "hv1", str(uuid.uuid4())
    return ElementTree.tostring(root, encoding="unicode")


def _write_home(directory: Path, plan: GuestPlan, keys: LabKeys) -> None:
    """A user who has logged in to it before."""
    directory.mkdir(parents=True)
    (directory / "key").write_text(keys.client.private)
    (directory / "key").chmod(0o600)
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{plan.uplink.port} {keys.hosts['hv'].public}\n")
    (directory / "config").write_text(
        "".join(f"Host {alias}\n    User {account}\n" for alias, account in _ACCOUNTS.items())
        + f"Host hv*\n    HostName 127.0.0.1\n    Port {plan.uplink.port}\n"
        f"    IdentityFile {directory}/key\n    UserKnownHostsFile {directory}/known_hosts\n"
    )


def test_an_adopted_domain_is_used_and_left_as_it_was(hand: Hand) -> None:
    lab = hand.lab
    _what_cannot_be_adopted_is_said(hand)
    wait_until(hand.is_up, timeout_s=300)
    before, inside = hand.libvirt("show"), _look_inside(hand)
    _who_may_not_become_root_is_refused(hand)

    adopted = lab.nestctl("adopt", "hv1", "hv").expect(0)
    assert "'hv1' (1 CPU, 1280 MiB) can be adopted. Wrote 'lab.yaml'." in adopted.stderr
    assert _look_inside(hand) == inside
    plan = lab.nestctl("plan", "--json").expect(1).json["guests"][0]
    assert (plan["name"], plan["action"], plan["guests"][0]["action"]) == ("hv1", "adopt", "create")
    lab.nestctl("up", timeout_s=1800).expect(0)
    _it_is_shown_as_adopted(hand)
    _it_is_measured(hand)
    _nobody_else_can_have_it(hand)
    assert "nothing to do" in lab.nestctl("plan").expect(0).stdout
    assert "nestctl does not remove it" in lab.nestctl("reset", "hv1").expect(2).stderr
    _the_user_finds_what_was_broken_mended(hand)

    lab.nestctl("down", timeout_s=600).expect(0)
    assert _look_inside(hand) == inside
    assert "Nothing of the lab 'adopted'" in lab.nestctl("audit", "adopted").expect(0).stderr
    _a_key_that_sshd_does_not_take_is_taken_back(hand)
    assert _look_inside(hand) == inside
    _root_is_let_in_as_well(hand)
    assert _look_inside(hand) == inside
    assert hand.libvirt("show") == before


def _what_cannot_be_adopted_is_said(hand: Hand) -> None:
    lab = hand.lab
    assert "no domain 'nosuch' to adopt" in lab.nestctl("adopt", "nosuch", "hv").expect(2).stderr
    assert "'hv1' is off, and nestctl does not start" in lab.nestctl("adopt", "hv1", "hv").expect(3).stderr
    hand.libvirt("start")
    assert "cannot be reached" in lab.nestctl("adopt", "hv1", "root@127.0.0.1:1").expect(3).stderr
    assert not (lab.directory / "lab.yaml").exists()


def _who_may_not_become_root_is_refused(hand: Hand) -> None:
    lab = hand.lab
    refused = lab.nestctl("adopt", "hv1", "hv-bob").expect(3).stderr
    assert "The account 'bob' of 'hv-bob' may not become root there: sudo: a password is required." in refused
    assert "does not let 'root' in" in lab.nestctl("adopt", "hv1", "hv-root").expect(3).stderr
    assert not (lab.directory / "lab.yaml").exists()


def _a_key_that_sshd_does_not_take_is_taken_back(hand: Hand) -> None:
    lab = hand.lab
    hand.ssh("echo 'bob ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/bob")
    lab.nestctl("adopt", "--force", "hv1", "hv-bob").expect(0)
    refused = lab.nestctl("up").expect(3).stderr
    assert "The lab's key was added to the authorized_keys of 'bob' in the domain 'hv1'" in refused
    assert "authorizedkeysfile" in refused
    assert lab.nestctl("list", "--json").expect(0).json["labs"] == []


def _root_is_let_in_as_well(hand: Hand) -> None:
    """Without a guest inside: that is done as it was for ada."""
    lab = hand.lab
    hand.ssh("rm /etc/ssh/sshd_config.d/00-own.conf && pkill -HUP -o sshd")
    lab.write("name: adopted\nguests:\n  hv1:\n    adopt: {domain: hv1, ssh: hv-root}\n")
    lab.nestctl("up").expect(0)
    assert lab.nestctl("exec", "hv1", "--", "id", "-un").expect(0).stdout == "root\n"
    assert "nestctl-adopted:adopted" in hand.ssh("cat /root/.ssh/authorized_keys")
    lab.nestctl("down").expect(0)


def _it_is_shown_as_adopted(hand: Hand) -> None:
    lab = hand.lab
    status = lab.nestctl("status", "--json").expect(0).json["guests"][0]
    assert (status["domain"], status["is_adopted"], status["state"]) == ("hv1", True, "running")
    assert (status["cpus"], status["memory_mib"], status["ssh_port"]) == (1, 1280, hand.port)
    (inner,) = status["guests"]
    assert (inner["state"], inner["accelerator"], inner["is_adopted"]) == ("running", "kvm", False)
    assert "adopted: domain hv1" in lab.nestctl("status").expect(0).stdout
    (listed,) = lab.nestctl("list", "--json").expect(0).json["labs"]
    assert (listed["outermost"], listed["running"], listed["adopted"]) == (1, 1, 1)
    variables = lab.nestctl("inventory", "--host", "hv1").expect(0).json
    assert variables["nestctl_is_adopted"] is True
    assert (variables["ansible_user"], variables["ansible_become"]) == ("ada", True)
    assert "nestctl: ready" in lab.nestctl("logs", "vm").expect(0).stdout
    assert lab.nestctl("ssh", "vm", "--", "systemd-detect-virt").expect(0).stdout == "kvm\n"
    seen = lab.nestctl("ssh", "hv1", "id -un; sudo virsh -q -c qemu:///system list --name").expect(0)
    assert seen.stdout.split() == ["ada", "adopted-vm"]
    assert lab.nestctl("exec", "adopted/*", "--", "hostname").expect(0).stdout == "hv1: hv\nvm: vm\n"


def _it_is_measured(hand: Hand) -> None:
    """KVM's own counters, which only root may read, bear out what is measured in the guest inside."""
    words = ("bench", "--quick", "--rounds=1", "--workload=hypercall_exit", "--json", "--output", "results")
    calls = hand.lab.nestctl(*words).expect(0).json["calls"]
    samples = {call["level"]: sample for call in calls for it in call["outcomes"] for sample in it["samples"]}
    assert {"hv1", "vm"} <= set(samples)
    for level in ("hv1", "vm"):
        assert samples[level]["exits"] >= samples[level]["operations"]
        assert not samples[level]["void"]


def _nobody_else_can_have_it(hand: Hand) -> None:
    lab = hand.lab
    text = (lab.directory / "lab.yaml").read_text()
    other = lab.directory / "other.yaml"
    other.write_text(text.replace("name: adopted", "name: other"))
    refused = lab.nestctl("up", "other.yaml").expect(2)
    assert "'hv1' is adopted by the lab 'adopted' already" in refused.stderr
    assert [it["name"] for it in lab.nestctl("list", "--json").expect(0).json["labs"]] == ["adopted"]


def _the_user_finds_what_was_broken_mended(hand: Hand) -> None:
    """The lab's key is taken out of the machine, its guest stopped: `up` comes in as the user, as in the beginning."""
    hand.ssh("sed -i /nestctl-adopted:/d /home/ada/.ssh/authorized_keys; virsh -q -c qemu:///system destroy adopted-vm")
    assert hand.lab.nestctl("status", "--json").expect(1).json["guests"][0]["state"] == "unreachable"
    hand.lab.nestctl("up", timeout_s=900).expect(0)
    hand.lab.nestctl("status").expect(0)


def _look_inside(hand: Hand) -> str:
    """What an adoption could leave behind there."""
    return hand.ssh(
        "stat -c '%U %a' /home/ada/.ssh/authorized_keys; sha256sum /root/.ssh/* /home/*/.ssh/*;"
        "find /var/lib/nestctl | sort; virsh -q -c qemu:///system list --all;"
        "virsh -q -c qemu:///system net-list --all; virsh -q -c qemu:///system nwfilter-list; ls /sys/class/net"
    )
