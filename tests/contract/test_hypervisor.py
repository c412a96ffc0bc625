"""The same calls on every libvirt that needs no daemon: QEMU's driver inside this process, and libvirt's test driver.

No domain is started: what QEMU does with it is for the tests that boot guests.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from nestctl.adapters.embedded import embedded_root
from nestctl.adapters.libvirt import Hypervisor, open_hypervisor
from nestctl.adapters.refusals import PortTakenError, explain
from nestctl.adapters.uri import SESSION_URI, SYSTEM_URI, choose_uri
from nestctl.deadline import Deadline
from nestctl.errors import HypervisorError, PrerequisiteError, UsageError
from nestctl.lab.network_plan import NetworkPlan
from nestctl.lab.render import parse_mark, parse_network_owner, render_domain, render_network
from tests.builders import lab_of_depth, plan_of_depth, plans_of
from tests.contract.conftest import environment
from tests.fakes import World, make_machine
from tests.libvirt_test_driver import for_test_driver
from tests.needs import need_program

PLAN = plan_of_depth(2, is_emulated=True)
GOLDEN = Path(__file__).parents[1] / "golden"


def soon() -> Deadline:
    return Deadline.after(60, "Opening libvirt")


@pytest.fixture(scope="module")
def open_embedded(one_directory: Path) -> Iterator[Hypervisor]:
    """One connection for all tests: libvirt can open the embedded driver only some twenty times in a process."""
    need_program("qemu-system-x86_64", "qemu-system-x86")
    with (
        environment(one_directory),
        open_hypervisor(f"qemu:///embed?root={embedded_root()}", deadline=soon()) as hypervisor,
    ):
        yield hypervisor


@pytest.fixture
def embedded(open_embedded: Hypervisor) -> Iterator[Hypervisor]:
    """QEMU's driver; what a test has left in it is removed."""
    yield open_embedded
    for name in names(open_embedded):
        open_embedded.remove_domain(name)


@pytest.fixture(params=["embed", "test", "fake"])
def hypervisor(request: pytest.FixtureRequest) -> Iterator[Hypervisor]:
    """Every driver that needs no daemon, and the fake that other tests take for one."""
    if request.param == "embed":
        yield request.getfixturevalue("embedded")
        return
    if request.param == "fake":
        yield make_machine("this machine", World()).hypervisor
        return
    connection = libvirt.open("test:///default")
    try:
        yield Hypervisor(where="this machine", uri="test:///default", connection=connection)
    finally:
        connection.close()


def domain_for(hypervisor: Hypervisor, xml: str | None = None) -> str:
    """The XML of a guest; the test driver knows one type of domain, and no options of QEMU's."""
    text = xml or render_domain(PLAN)
    return for_test_driver(text) if hypervisor.uri.startswith("test:") else text


def names(hypervisor: Hypervisor) -> set[str]:
    return {domain.name for domain in hypervisor.list_domains()}


def test_a_domain_is_defined_and_listed(hypervisor: Hypervisor) -> None:
    before = names(hypervisor)
    hypervisor.define_domain(domain_for(hypervisor))
    assert names(hypervisor) - before == {"demo-l1"}
    assert hypervisor.read_trouble("demo-l1") == "has stopped"


def test_one_domain_is_found_by_its_name(hypervisor: Hypervisor) -> None:
    assert hypervisor.find_domain("demo-l1") is None
    hypervisor.define_domain(domain_for(hypervisor))
    found = hypervisor.find_domain("demo-l1")
    assert found
    assert found in hypervisor.list_domains()


def test_a_domain_that_goes_while_they_are_listed_is_left_out() -> None:
    connection = libvirt.open("test:///default")
    hypervisor = Hypervisor(where="this machine", uri="test:///default", connection=connection)
    hypervisor.define_domain(domain_for(hypervisor))
    stale = connection.lookupByName("demo-l1")
    stale.undefine()

    class Listing:
        def listAllDomains(self) -> list[libvirt.virDomain]:  # noqa: N802 - libvirt's name
            return [stale]

    assert Hypervisor(where="this machine", uri="test:///default", connection=Listing()).list_domains() == ()


def test_networks_and_filters_that_go_while_they_are_listed_are_left_out() -> None:
    connection = libvirt.open("test:///default")
    network = connection.networkLookupByName("default")
    network.destroy()
    network.undefine()

    class Filter:
        def name(self) -> str:
            return "gone"

        def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
            return ""

        def XMLDesc(self) -> str:  # noqa: N802
            # The test driver has no filters; its networks' error is raised, with the code of a filter's.
            error = libvirt.libvirtError("gone")
            error.err = (libvirt.VIR_ERR_NO_NWFILTER, *[None] * 8)
            raise error

    class Listing:
        def listAllNetworks(self) -> list[libvirt.virNetwork]:  # noqa: N802
            return [network]

        def listAllNWFilters(self) -> list[Filter]:  # noqa: N802
            return [Filter()]

    hypervisor = Hypervisor(where="this machine", uri="test:///default", connection=Listing())
    assert (hypervisor.list_networks(), hypervisor.list_filters()) == ((), ())


def test_a_domain_is_removed_and_no_other(embedded: Hypervisor) -> None:
    """Not on the test driver: it knows no managed save and no nvram that could be removed with a domain."""
    embedded.define_domain(render_domain(PLAN))
    embedded.define_domain(render_domain(plans_of(lab_of_depth(1, "other"), is_emulated=True)[0]))
    embedded.remove_domain("demo-l1")
    assert names(embedded) == {"other-l1"}


def test_libvirt_keeps_our_mark(hypervisor: Hypervisor) -> None:
    hypervisor.define_domain(domain_for(hypervisor))
    (domain,) = (domain for domain in hypervisor.list_domains() if domain.name == "demo-l1")
    mark = parse_mark(domain.xml)
    assert mark
    assert (mark.lab, mark.name, mark.digest) == ("demo", "l1", PLAN.digest)
    assert domain.live_xml == ""


def test_defining_twice_changes_nothing(hypervisor: Hypervisor) -> None:
    hypervisor.define_domain(domain_for(hypervisor))
    once = hypervisor.list_domains()
    hypervisor.define_domain(domain_for(hypervisor))
    assert hypervisor.list_domains() == once


def test_an_element_that_libvirt_does_not_know_is_refused(hypervisor: Hypervisor) -> None:
    """Without validation libvirt drops it without a word."""
    before = names(hypervisor)
    xml = domain_for(hypervisor).replace("<on_crash>", "<surprise/><on_crash>")
    with pytest.raises(HypervisorError, match="Could not define a domain on this machine: XML document failed"):
        hypervisor.define_domain(xml)
    assert names(hypervisor) == before


def test_text_that_is_no_xml_is_refused(hypervisor: Hypervisor) -> None:
    with pytest.raises(HypervisorError, match="Could not define a domain"):
        hypervisor.define_domain("<domain")


@pytest.mark.parametrize("call", ["start_domain", "read_trouble", "remove_domain"])
def test_a_domain_that_is_not_there_is_an_error_in_libvirts_words(hypervisor: Hypervisor, call: str) -> None:
    with pytest.raises(HypervisorError, match=r"'nobody'.*Domain not found"):
        getattr(hypervisor, call)("nobody")


def test_a_driver_without_networks_has_none(embedded: Hypervisor) -> None:
    assert embedded.list_networks() == ()


def test_networks_are_defined_started_listed_and_removed() -> None:
    network = plan_of_depth(2).network
    assert isinstance(network, NetworkPlan)
    hypervisor = Hypervisor(where="here", uri="test:///default", connection=libvirt.open("test:///default"))
    hypervisor.define_network(render_network(network))
    assert {it.name: it.is_active for it in hypervisor.list_networks()}["demo-l1"] is False
    hypervisor.start_network("demo-l1")
    (found,) = (it for it in hypervisor.list_networks() if it.name == "demo-l1")
    assert found.is_active
    assert parse_network_owner(found.xml) == "demo"
    hypervisor.remove_network("demo-l1")
    assert "demo-l1" not in {it.name for it in hypervisor.list_networks()}
    for call in (hypervisor.start_network, hypervisor.remove_network):
        with pytest.raises(HypervisorError, match="'demo-l1'"):
            call("demo-l1")


def test_qemus_driver_takes_every_golden_domain(embedded: Hypervisor) -> None:
    paths = sorted(GOLDEN.glob("*/*.domain.xml"))
    for path in paths:
        text = path.read_text()
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            # QEMU's driver knows no such type then; the rest of the document is the same.
            text = re.sub(r"<domain type='kvm'", "<domain type='qemu'", text)
            text = text.replace("mode='host-passthrough' check='none' migratable='off'", "mode='maximum'")
        embedded.define_domain(text)
        (name,) = names(embedded)
        embedded.remove_domain(name)
    assert len(paths) > 10


@pytest.mark.parametrize("uri", ["xen:///", "qemu+ssh://host/system", "test:///default", "nonsense", "", "lxc:///"])
def test_a_connection_that_is_not_this_machines_qemu_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="is not this machine's QEMU"), open_hypervisor(uri, deadline=soon()):
        pytest.fail("opened")


@pytest.mark.parametrize("uri", ["qemu:///embed", "qemu:///embed?root=", "qemu:///embed?root=relative"])
def test_the_embedded_driver_needs_a_directory(uri: str) -> None:
    with pytest.raises(UsageError, match="names no absolute directory"), open_hypervisor(uri, deadline=soon()):
        pytest.fail("opened")


def test_a_taken_port_is_told_from_other_failures() -> None:
    libvirt.virResetLastError()
    error = libvirt.libvirtError("internal error: Could not set up host forwarding rule 'tcp:127.0.0.1:20000-:22'")
    assert isinstance(explain(error, "start the domain"), PortTakenError)
    assert isinstance(explain(libvirt.libvirtError("anything else"), "start the domain"), HypervisorError)


@pytest.mark.parametrize("uri", ["xen:///", "qemu:///sytem", "qemu:///embed", "qemu:///embed?root=relative"])
def test_what_cannot_be_a_connection_is_refused_before_it_is_used(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"The connection .* (is not|names no)"):
        choose_uri(uri)
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", uri)
    with pytest.raises(UsageError):
        choose_uri(None)


def test_what_was_asked_for_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", SYSTEM_URI)
    assert choose_uri(SESSION_URI) == SESSION_URI
    assert choose_uri(None) == SYSTEM_URI


def test_without_a_wish_it_is_one_of_three() -> None:
    assert choose_uri(None) in {SYSTEM_URI, SESSION_URI, f"qemu:///embed?root={embedded_root()}"}


def test_what_happens_to_a_domain_is_told_at_once(embedded: Hypervisor) -> None:
    happened = threading.Event()
    with embedded.notify(happened.set):
        embedded.define_domain(domain_for(embedded))
        assert happened.wait(20)
        happened.clear()
        embedded.remove_domain(PLAN.domain)
        assert happened.wait(20)
    happened.clear()
    embedded.define_domain(domain_for(embedded))
    assert not happened.wait(0.2)


def test_a_driver_says_whether_it_has_networks_and_filters(embedded: Hypervisor) -> None:
    assert not embedded.has_networks()
    assert embedded.list_filters() == ()
    connection = libvirt.open("test:///default")
    assert Hypervisor(where="this machine", uri="test:///default", connection=connection).has_networks()
    connection.close()


def test_a_limit_that_needs_cgroups_says_what_to_do() -> None:
    said = "Requested operation is not valid: cgroup CPU controller is not mounted"
    assert "leave them out" in explain(libvirt.libvirtError(said), "limit it").hint
    said = "cannot limit locked memory of process 7 to 8: Operation not permitted"
    assert "CAP_SYS_RESOURCE" in explain(libvirt.libvirtError(said), "start it").hint


def test_a_home_that_libvirt_cannot_use_is_a_prerequisite() -> None:
    said = "Cannot create user runtime directory '/nonexistent/.cache/libvirt': Permission denied"
    explained = explain(libvirt.libvirtError(said), "connect to 'qemu:///session' on this machine")
    assert isinstance(explained, PrerequisiteError)
    assert "set HOME" in explained.hint


def test_a_kernel_that_cannot_limit_an_interface_says_what_to_do() -> None:
    said = (
        "Child process (tc qdisc add dev vnet2 parent 1:1 handle 2: sfq perturb 10) unexpected exit status 2: Error: "
        "Specified qdisc kind is unknown"
    )
    explained = explain(libvirt.libvirtError(said), "start the domain 'isp-blue' on this machine")
    assert isinstance(explained, PrerequisiteError)
    assert "sch_sfq" in explained.hint


def test_an_image_that_another_libvirt_holds_says_what_to_do() -> None:
    said = "Requested operation is not valid: Setting different DAC user or group on /x/vmlinuz which is already in use"
    assert "the same '--connect'" in explain(libvirt.libvirtError(said), "start it").hint
