from __future__ import annotations

import os
import socket
from ipaddress import IPv4Network
from itertools import islice
from pathlib import Path

import pytest

from nestctl.errors import FailedError
from nestctl.lab import addresses
from nestctl.lab.addresses import (
    allocate_subnets,
    choose_address,
    choose_port,
    choose_subnets,
    is_in,
    parse_routes,
    read_outer_subnets,
    read_routes,
    select_pool,
)

HOME = IPv4Network("192.168.1.0/24")

# As a laptop with Docker, libvirt and a VPN has it.
ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
virbr0\t007AA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
tun0\t0100D50A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
"""


def test_routes_are_read_without_the_default_route() -> None:
    expected = ["192.168.1.0/24", "192.168.122.0/24", "172.17.0.0/16", "10.213.0.1/32"]
    assert list(parse_routes(ROUTES)) == [IPv4Network(text) for text in expected]


def test_the_subnet_of_a_route_is_left_out() -> None:
    assert allocate_subnets(2, parse_routes(ROUTES)) == (IPv4Network("10.213.1.0/24"), IPv4Network("10.213.2.0/24"))


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 256])
def test_every_level_has_a_subnet_of_its_own(depth: int) -> None:
    subnets = allocate_subnets(depth, [])
    assert len(set(subnets)) == depth
    assert all(subnet.prefixlen == 24 for subnet in subnets)


@pytest.mark.parametrize("route", ["10.0.0.0/8", "10.213.0.0/16", "0.0.0.0/1"])
def test_a_route_to_all_of_the_pool_leaves_none(route: str) -> None:
    with pytest.raises(FailedError, match="No free subnet is left"):
        allocate_subnets(1, [IPv4Network(route)])


def test_a_wide_route_takes_all_it_covers() -> None:
    assert next(choose_subnets([IPv4Network("10.213.0.0/17")])) == IPv4Network("10.213.128.0/24")


def test_a_lab_keeps_its_subnets_and_gets_more_for_new_levels() -> None:
    kept = (IPv4Network("10.213.7.0/24"), IPv4Network("10.213.1.0/24"))
    occupied = [IPv4Network("10.213.0.0/24"), IPv4Network("10.213.7.0/24")]
    assert allocate_subnets(3, occupied, kept) == (*kept, IPv4Network("10.213.2.0/24"))
    assert allocate_subnets(1, occupied, kept) == kept[:1]


def test_what_is_written_down_for_inner_machines_is_read(tmp_path: Path) -> None:
    (tmp_path / "subnets").write_text("# made by nestctl\n10.213.0.0/24\nnonsense\n10.213.5.0/24\n")
    assert [str(it) for it in read_outer_subnets(tmp_path / "subnets")] == ["10.213.0.0/24", "10.213.5.0/24"]
    assert read_outer_subnets(tmp_path / "nothing") == ()


def test_only_subnets_of_the_pool_are_passed_on() -> None:
    inside, wide = IPv4Network("10.213.3.0/24"), IPv4Network("10.0.0.0/8")
    assert select_pool([HOME, inside, wide, inside]) == (inside, wide)


def test_subnets_are_the_same_each_time() -> None:
    assert list(islice(choose_subnets([]), 3)) == list(islice(choose_subnets([]), 3))


def test_this_machines_routes_can_be_read() -> None:
    assert IPv4Network("0.0.0.0/0") not in read_routes()


def test_a_machine_without_the_file_has_no_routes(tmp_path: Path) -> None:
    assert read_routes(tmp_path / "route") == ()


def test_short_lines_are_passed_over() -> None:
    assert list(parse_routes("Iface\n\neth0 0001A8C0\n")) == []


# A port is the same for the same names: another run of these tests, at the same time, must have others.
LAB = f"lab{os.getpid()}"


def test_a_free_address_is_chosen_or_there_is_none() -> None:
    taken = {"10.213.1.10", "10.213.1.12"}
    assert choose_address("10.213.1.0/24", taken) == "10.213.1.11"
    with pytest.raises(FailedError, match=r"No free address is left in 10\.213\.1\.0/28"):
        choose_address("10.213.1.0/28", {f"10.213.1.{last}" for last in range(10, 15)})


@pytest.mark.parametrize(
    ("address", "expected"), [("10.213.1.9", True), ("10.213.2.9", False), ("", False), ("x", False)]
)
def test_an_address_is_in_its_subnet(address: str, expected: bool) -> None:
    assert is_in(address, "10.213.1.0/24") is expected


def test_a_guests_port_stays_the_same() -> None:
    assert choose_port(LAB, "l1") == choose_port(LAB, "l1")


def test_another_lab_gets_another_port() -> None:
    assert len({choose_port(lab, "l1") for lab in (LAB, "other", "third")}) > 1


def test_a_port_lies_outside_of_those_linux_gives_away() -> None:
    assert 20_000 <= choose_port(LAB, "l1") < 30_000


def test_an_avoided_port_is_not_chosen() -> None:
    first = choose_port(LAB, "l1")
    assert choose_port(LAB, "l1", avoid=[first]) != first


def test_a_port_that_another_program_has_is_not_chosen() -> None:
    first = choose_port(LAB, "l1")
    with socket.socket() as other:
        # A connection to it that has just ended keeps nobody from listening.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", first))
        other.listen()
        assert choose_port(LAB, "l1") != first


def test_no_port_left_is_said() -> None:
    with pytest.raises(FailedError, match="No free port is left between 20000 and 29999"):
        choose_port(LAB, "l1", avoid=range(addresses._FIRST_PORT, addresses._FIRST_PORT + addresses._PORTS))
