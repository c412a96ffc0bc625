"""Domains of somebody else's as L1s: what can be adopted, what is done there and undone, and that they stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nestctl.errors import LabFileError, PrerequisiteError, UsageError
from nestctl.lab.act import remove_superfluous
from nestctl.lab.adopt import _list_pieces, render_lab_file
from nestctl.lab.adoption import Adoption, look_at_domain, read_adoptions
from nestctl.lab.bundle import write_bundles
from nestctl.lab.compare import Action, is_settled
from nestctl.lab.host_facts import Adopted
from nestctl.lab.inventory import host_variables
from nestctl.lab.keys import LabKeys
from nestctl.lab.nodes import list_nodes
from nestctl.lab.parse import parse_lab
from nestctl.lab.plan import walk_plans
from nestctl.lab.reach import log_command
from nestctl.lab.serial import console_command
from nestctl.lab.status import judge
from nestctl.lab.store import lab_directory
from nestctl.model.adopt import Adopt
from nestctl.model.lab import Guest, Lab
from tests.builders import lab_of_depth, plans_of, recognizable_keys
from tests.fakes import FakeDomain, Killed, World, make_machine, own_domains
from tests.lab_bench import Bench

UUID = "0f5c0ab4-1f6e-4b0c-8a3c-3a8f2a4d9c11"
# As libvirt writes one that could have more CPUs and memory than it has now.
XML = (
    f"<domain type='kvm'><name>hv1</name><uuid>{UUID}</uuid><memory unit='KiB'>8388608</memory>"
    "<currentMemory unit='KiB'>4194304</currentMemory><vcpu placement='static' current='2'>8</vcpu></domain>"
)
INNER: dict[str, Any] = {"memory_mib": 512}


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No OpenSSH configuration of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def adopting(name: str = "demo", user: str = "root", **changes: Any) -> Lab:
    guests = {"hv": Guest(adopt=Adopt(domain="hv1", ssh=f"{user}@192.0.2.7:2222"), guests={"vm": Guest(**INNER)})}
    return Lab(**{"name": name, "guests": guests, **changes})


def bench_with_domain(world: World | None = None, *, is_running: bool = True) -> Bench:
    """A machine on which somebody has a domain 'hv1'."""
    bench = Bench(world=world or World())
    machine = make_machine("hv1", bench.world)
    machine.shell.uuid = UUID
    domain = FakeDomain(xml=XML, machine=machine, live_xml=XML if is_running else "")
    bench.machine.hypervisor.domains["hv1"] = domain
    return bench


def inside(bench: Bench) -> Any:
    return bench.machine.hypervisor.domains["hv1"].machine


def expect_left_alone(bench: Bench) -> None:
    """The domain is what it was, and nothing of a lab's is in it or here."""
    domain = bench.machine.hypervisor.domains.pop("hv1")
    assert (domain.xml, domain.live_xml) == (XML, XML)
    assert domain.machine.hypervisor.domains == {}
    assert domain.machine.hypervisor.networks == {}
    assert domain.machine.shell.authorized == set()
    assert domain.machine.shell.files == set()
    bench.expect_nothing_left()


def test_guests_are_made_in_a_domain_that_is_there_and_removed_again() -> None:
    bench = bench_with_domain()
    assert bench.actions(adopting()) == {"hv": Action.ADOPT, "vm": Action.CREATE}
    bench.up(adopting())
    assert own_domains(inside(bench)) == {"demo-vm": True}
    assert is_settled(bench.plan(adopting()))
    steps = bench.world.steps
    bench.up(adopting())
    assert bench.world.steps == steps
    assert bench.down(adopting())
    expect_left_alone(bench)


def test_the_images_of_its_guests_are_files_in_it_and_disks_in_them() -> None:
    deep = adopting(
        guests={
            "hv": Guest(
                adopt=Adopt(domain="hv1", ssh="h", dns="192.0.2.53"),
                guests={"l2": Guest(memory_mib=1100, guests={"l3": Guest(**INNER)})},
            )
        }
    )
    there = Adopted(
        domain="hv1",
        uuid=UUID,
        ssh="h",
        user="ada",
        host="h",
        port=22,
        cpus=1,
        memory_mib=4096,
        is_emulated=False,
        host_key="k",
    )
    hv, l2, l3 = walk_plans(plans_of(deep, adopted={"hv": there}))
    (image,) = hv.images
    assert (str(l2.place.base), l2.place.base_is_block) == (
        f"/var/lib/nestctl/images/{image.identity[:12]}/disk.raw",
        False,
    )
    assert [(base.path, base.is_block) for base in l2.bases] == [(l2.place.base, False)]
    assert (str(l3.place.base), l3.place.base_is_block) == ("/dev/disk/by-id/virtio-nestctl-base", True)
    assert l2.uplink.dns == "192.0.2.53"
    assert (hv.domain, hv.cpus, hv.memory_mib, hv.bases) == ("hv1", 1, 4096, ())
    assert (hv.contact.host, hv.contact.port, hv.contact.host_key) == ("h", 22, "k")


def test_what_was_lost_inside_is_made_again_and_a_key_that_was_taken_out_is_let_in_again() -> None:
    bench = bench_with_domain()
    bench.up(adopting())
    inside(bench).hypervisor.remove_domain("demo-vm")
    assert bench.actions(adopting()) == {"hv": Action.KEEP, "vm": Action.CREATE}
    inside(bench).shell.authorized.clear()
    assert bench.actions(adopting()) == {"hv": Action.ADOPT, "vm": Action.UNKNOWN}
    bench.up(adopting())
    assert is_settled(bench.plan(adopting()))
    inside(bench).shell.authorized.clear()
    bench.down(adopting())
    expect_left_alone(bench)


@pytest.mark.parametrize("then", ["up", "down"])
def test_it_can_be_killed_before_any_step(then: str) -> None:
    bench = bench_with_domain()
    bench.up(adopting())
    steps = bench.world.steps
    for ends_at in range(steps):
        bench = bench_with_domain(World(ends_at=ends_at))
        with pytest.raises(Killed):
            bench.up(adopting())
        bench.world.ends_at = None
        if then == "up":
            bench.up(adopting())
            assert is_settled(bench.plan(adopting()))
        bench.down(adopting())
        expect_left_alone(bench)


def test_leaving_can_be_killed_before_any_step() -> None:
    for ends_at in range(20):
        bench = bench_with_domain()
        bench.up(adopting())
        bench.world.steps, bench.world.ends_at = 0, ends_at
        try:
            bench.down(adopting())
        except Killed:
            bench.world.ends_at = None
            bench.down(adopting())
            expect_left_alone(bench)
        else:
            return
    pytest.fail("it never ends")


def test_one_that_is_not_in_the_file_any_more_is_left_and_not_removed() -> None:
    bench = bench_with_domain()
    made = Guest(**INNER)
    both = adopting(guests={**adopting().guests, "made": made})
    bench.up(both)
    only = adopting(guests={"made": made})
    (change,) = (it for it in bench.plan(only) if it.name == "hv")
    assert (change.action, change.reason) == (Action.REMOVE, "it is not in the lab file; the domain stays")
    with pytest.raises(AssertionError):
        remove_superfluous(bench.machine.level, change)
    bench.up(only)
    assert own_domains(inside(bench)) == {"demo-vm": True}
    bench.up(only, may_prune=True)
    assert read_adoptions("demo") == ()
    bench.down(only)
    expect_left_alone(bench)


def test_a_guest_is_not_turned_into_an_adopted_one_nor_back() -> None:
    bench = bench_with_domain()
    bench.up(adopting())
    with pytest.raises(UsageError, match="'hv' is adopted, and is to be made"):
        bench.up(adopting(guests={"hv": Guest(**INNER)}), may_recreate=True)
    bench.down(adopting())
    bench.up(adopting(guests={"hv": Guest(**INNER)}))
    with pytest.raises(UsageError, match="'hv' is made by nestctl, and is to be adopted"):
        bench.up(adopting(), may_recreate=True)
    bench.down(adopting())
    expect_left_alone(bench)


def test_a_lab_stays_until_what_it_made_in_a_domain_can_be_removed() -> None:
    bench = bench_with_domain()
    bench.up(adopting())
    bench.machine.hypervisor.domains["hv1"].live_xml = ""
    with pytest.raises(PrerequisiteError, match="What nestctl made in the domain 'hv1' cannot be removed: it is off"):
        bench.down(adopting())
    assert lab_directory("demo").exists()
    bench.machine.hypervisor.domains["hv1"].live_xml = XML
    bench.down(adopting())
    expect_left_alone(bench)


def test_a_domain_that_is_gone_took_everything_with_it() -> None:
    bench = bench_with_domain()
    bench.up(adopting())
    del bench.machine.hypervisor.domains["hv1"]
    assert bench.down(adopting())
    assert any("'hv1' that 'hv' had adopted is not there any more" in it for it in bench.said)
    bench.expect_nothing_left()


def _another(bench: Bench) -> None:
    bench.up(adopting("first"))


def _wrong_machine(bench: Bench) -> None:
    inside(bench).shell.uuid = "11111111-2222-3333-4444-555555555555"


def _no_hypervisor(bench: Bench) -> None:
    inside(bench).shell.lacking = "/dev/kvm"


def _deaf(bench: Bench) -> None:
    bench.world.failing.add("hv")


def _small(bench: Bench) -> None:
    domain = bench.machine.hypervisor.domains["hv1"]
    domain.xml = domain.live_xml = XML.replace("4194304", "1000000")


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (_another, UsageError, "'hv1' is adopted by the lab 'first' already"),
        (_wrong_machine, UsageError, "is not the domain 'hv1': the machine there has the UUID 11111111"),
        (_no_hypervisor, PrerequisiteError, "is no hypervisor: /dev/kvm is not there"),
        (
            _deaf,
            PrerequisiteError,
            "was added to the authorized_keys of 'root' in the domain 'hv1', and does not open it",
        ),
        (_small, PrerequisiteError, "need 512 MiB and it needs 512 MiB itself, and the domain 'hv1' has 976 MiB"),
    ],
)
def test_what_cannot_be_adopted_is_refused_and_nothing_of_the_lab_is_left(spoil: Any, error: Any, said: str) -> None:
    bench = bench_with_domain()
    spoil(bench)
    before = set(inside(bench).shell.authorized)
    with pytest.raises(error, match=said):
        bench.up(adopting())
    assert inside(bench).shell.authorized == before
    assert not lab_directory("demo").exists()


def _seen(xml: str = XML, *, is_running: bool = True, name: str = "hv1") -> Any:
    bench = Bench()
    machine = make_machine(name, bench.world)
    bench.machine.hypervisor.domains[name] = FakeDomain(xml=xml, machine=machine, live_xml=xml if is_running else "")
    return bench.machine.hypervisor.find_domain("hv1")


def test_a_domain_is_looked_at_before_it_is_adopted() -> None:
    adopt = Adopt(domain="hv1", ssh="192.0.2.7")
    found = look_at_domain(adopt, _seen())
    assert (found.host, found.port, found.cpus, found.memory_mib, found.is_emulated) == (
        "192.0.2.7",
        22,
        2,
        4096,
        False,
    )
    with pytest.raises(UsageError, match=r"was adopted as 'ada', and 'root@192\.0\.2\.7' logs in as 'root'"):
        look_at_domain(Adopt(domain="hv1", ssh="root@192.0.2.7"), _seen(), replace(found, user="ada"))
    with pytest.raises(UsageError, match="There is no domain 'hv1' to adopt"):
        look_at_domain(adopt, _seen(name="other"))
    with pytest.raises(PrerequisiteError, match="'hv1' is off"):
        look_at_domain(adopt, _seen(is_running=False))
    with pytest.raises(UsageError, match=r"and 'hv1' .* is another one"):
        look_at_domain(adopt, _seen(XML.replace("0f5c", "1f5c")), found)


def test_a_guest_of_a_lab_is_not_adopted() -> None:
    bench = Bench()
    bench.up(lab_of_depth(1, "first"))
    wanted = adopting(guests={"hv": Guest(adopt=Adopt(domain="first-l1", ssh="h"))})
    with pytest.raises(UsageError, match="'first-l1' is the guest 'l1' of the lab 'first'"):
        bench.up(wanted)
    bench.down(lab_of_depth(1, "first"))
    bench.expect_nothing_left()


def test_the_users_configuration_says_where_it_is_and_a_way_around_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "home/.ssh"
    directory.mkdir(parents=True)
    (directory / "config").write_text("Host hv\n  HostName 192.0.2.9\n  Port 2200\nHost far\n  ProxyJump hv\n")
    found = look_at_domain(Adopt(domain="hv1", ssh="hv"), _seen())
    assert (found.host, found.port) == ("192.0.2.9", 2200)
    with pytest.raises(UsageError, match="reaches 'far' through something else"):
        look_at_domain(Adopt(domain="hv1", ssh="far"), _seen())


FILE = "name: x\nguests:\n  hv:\n    adopt: {domain: hv1, ssh: root@h}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FILE + "    cpus: 2\n", "it is adopted as it is, and 'cpus' says what it is like"),
        (FILE + "    count: 2\n", "'count' says what it is like"),
        (FILE.replace("root@h", "'-oProxyCommand=x'"), "'guests.hv.adopt.ssh' is no way into a machine"),
        (FILE.replace("hv1", "a/b"), "'guests.hv.adopt.domain' is no domain's name"),
        (FILE.replace("ssh", "shh"), "unknown key. Did you mean 'ssh'"),
        (FILE + "  two:\n    adopt: {domain: hv1, ssh: h}\n", "two guests adopt the domain 'hv1'"),
        ("ttl: 3h\n" + FILE, "it has a 'ttl', and nestctl does not end a domain that it has adopted"),
        ("trust: untrusted\n" + FILE, "nestctl cannot keep a domain apart that somebody else made"),
        (
            "name: x\nguests:\n  a:\n    memory_mib: 2048\n    guests:\n      b:\n        adopt: {domain: d, ssh: h}\n",
            "'b' inside it has 'adopt': only a domain of this machine",
        ),
    ],
)
def test_a_lab_file_that_cannot_be_meant_is_refused(text: str, said: str) -> None:
    with pytest.raises(LabFileError) as raised:
        parse_lab(text, "lab.yaml")
    assert said in raised.value.message


def test_defaults_are_not_for_a_domain_that_is_adopted_but_for_the_guests_inside() -> None:
    lab = parse_lab("defaults: {cpus: 3}\n" + FILE + "    guests: {vm: {memory_mib: 512}}\n", "lab.yaml")
    assert lab.guests["hv"].cpus == 1
    assert lab.guests["hv"].guests["vm"].cpus == 3


@pytest.mark.parametrize(("domain", "guest"), [("hv1", "hv1"), ("Win_2019.x", "l1"), ("vm", "l1")])
def test_the_file_that_is_written_can_be_read(domain: str, guest: str) -> None:
    lab = parse_lab(render_lab_file("mine", domain, "admin@h:2222"), "lab.yaml")
    assert list(lab.guests) == [guest]
    assert lab.guests[guest].adopt == Adopt(domain=domain, ssh="admin@h:2222")
    assert list(lab.guests[guest].guests) == ["vm"]


@pytest.fixture
def adoption() -> Iterator[Adoption]:
    bench = bench_with_domain()
    bench.up(adopting())
    yield read_adoptions("demo")[0]
    bench.down(adopting())


def test_it_is_shown_for_what_it_is(adoption: Adoption, tmp_path: Path) -> None:
    lab = adopting()
    (status,) = judge(lab, lab.guests, None, now=datetime.now(UTC))
    assert (status.domain, status.is_adopted, status.state) == ("hv1", True, "absent")
    node = list_nodes(lab)[0]
    assert host_variables(node, {})["nestctl_is_adopted"] is True
    with pytest.raises(UsageError, match="its console is not nestctl's"):
        log_command(node, lines=None, is_followed=False)
    keys: LabKeys = recognizable_keys(lab.guests)
    with pytest.raises(UsageError, match="no key to it is handed out"):
        write_bundles(lab, plans_of(lab, adopted={"hv": adoption.adopted}), keys, tmp_path, None)
    known = (lab_directory("demo") / "known_hosts").read_text()
    assert "hv ssh-ed25519 of-the-machine\n" in known
    config = (lab_directory("demo") / "ssh_config").read_text()
    assert "HostName 192.0.2.7\n    Port 2222\n" in config


def test_an_account_that_uses_sudo_is_gone_through_as_what_it_is() -> None:
    bench = bench_with_domain()
    lab = adopting(user="ada")
    bench.up(lab)
    hv, vm = list_nodes(lab)
    assert (host_variables(hv, {})["ansible_user"], host_variables(hv, {})["ansible_become"]) == ("ada", True)
    assert host_variables(vm, {})["ansible_user"] == "root"
    assert "ansible_become" not in host_variables(vm, {})
    config = (lab_directory("demo") / "ssh_config").read_text().split("Host ")
    assert ["    User ada" in it for it in config[1:]] == [True, False]
    assert ["    User root" in it for it in config[1:]] == [False, True]
    logged = log_command(vm, lines=None, is_followed=False)
    assert logged[-1] == "sudo -n tail -n +1 -- /var/lib/nestctl/guests/demo/vm.console.log"
    assert console_command(vm, connect=None)[-1] == "sudo -n virsh -c qemu:///system console demo-vm"
    bench.down(lab)
    expect_left_alone(bench)


def test_only_what_is_in_a_file_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(b"begin")
        file.seek(100 << 20)
        file.write(b"middle")
        file.truncate(200 << 20)
    with path.open("rb") as file:
        pieces = list(_list_pieces(file.fileno()))
    if path.stat().st_blocks * 512 > 100 << 20:
        pytest.skip("this file system has no holes")
    assert pieces == [0, 64 << 20]
