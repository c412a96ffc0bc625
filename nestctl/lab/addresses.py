"""Give every level a subnet of its own, so that no inner address means something else further out."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from itertools import islice
from pathlib import Path

from nestctl.errors import FailedError

Subnet = ipaddress.IPv4Network

# A quiet corner of 10/8: not libvirt's 192.168.122, QEMU's 10.0.2, Docker's 172.17 or Kubernetes' 10.96 and 10.244.
_POOL = ipaddress.IPv4Network("10.213.0.0/16")

# Forwarded ports are looked for here: below Linux's range for outgoing connections (from 32768 on).
_FIRST_PORT = 20_000
_PORTS = 10_000

FIRST_GUEST = 10

# Written into every hypervisor by its seed.
OUTER_SUBNETS = Path("/etc/nestctl/subnets")


def choose_subnets(occupied: Iterable[Subnet]) -> Iterator[Subnet]:
    """Yield one /24 for each level, outermost first, none of which overlaps what is occupied outside."""
    taken = tuple(occupied)
    return (subnet for subnet in _POOL.subnets(new_prefix=24) if not any(subnet.overlaps(other) for other in taken))


def allocate_subnets(depth: int, occupied: Iterable[Subnet], kept: Sequence[Subnet] = ()) -> tuple[Subnet, ...]:
    """Return `depth` subnets: those that a lab has and keeps, and new ones for the levels that are added.

    Raises `FailedError` when the pool has not that many left.
    """
    new = islice(choose_subnets((*occupied, *kept)), max(0, depth - len(kept)))
    subnets = (*kept[:depth], *new)
    if len(subnets) < depth:
        raise FailedError(f"No free subnet is left in {_POOL}: this machine has routes or networks in all of it.")
    return subnets


def allocate_networks(
    names: Iterable[str], occupied: Iterable[Subnet], kept: Mapping[str, Subnet]
) -> dict[str, Subnet]:
    """Return a subnet for each network of a lab: the one it has, or a new one. Raises as `allocate_subnets`."""
    names = tuple(names)
    there = {name: kept[name] for name in names if name in kept}
    missing = [name for name in names if name not in there]
    new = allocate_subnets(len(missing), (*occupied, *kept.values()))
    return {**there, **dict(zip(missing, new, strict=True))}


def choose_address(subnet: str, taken: Set[str]) -> str:
    """Choose a guest's address that is not taken. Raises `FailedError` when there is none left in the subnet."""
    for address in islice(ipaddress.IPv4Network(subnet).hosts(), FIRST_GUEST - 1, None):
        if str(address) not in taken:
            return str(address)
    raise FailedError(f"No free address is left in {subnet}.", hint="'nestctl up --prune' removes superfluous guests.")


def is_in(address: str, subnet: str) -> bool:
    """Tell whether a text is an address of a subnet."""
    try:
        return ipaddress.IPv4Address(address) in ipaddress.IPv4Network(subnet)
    except ValueError:
        return False


def select_pool(subnets: Iterable[Subnet]) -> tuple[Subnet, ...]:
    """Keep the subnets that have something of the pool: what a nestctl further in has to know of."""
    return tuple(dict.fromkeys(subnet for subnet in subnets if subnet.overlaps(_POOL)))


def read_outer_subnets(path: Path = OUTER_SUBNETS) -> tuple[Subnet, ...]:
    """Read the subnets that are in use further out, as the nestctl that made this machine wrote them down.

    This machine has routes to its own network only, and an address that means something two levels out would be taken
    again without a word. Empty where the file is not there: nestctl did not make this machine.
    """
    try:
        return tuple(parse_subnets(path.read_text()))
    except (OSError, UnicodeDecodeError):
        return ()


def parse_subnets(text: str) -> Iterator[Subnet]:
    """Parse a subnet a line; what is none, such as a comment, is passed over."""
    for word in text.split("\n"):
        with suppress(ValueError):
            yield ipaddress.IPv4Network(word.strip())


def read_routes(path: Path = Path("/proc/net/route")) -> tuple[Subnet, ...]:
    """Read the subnets this machine has routes to, without the default route. Empty where the file is not there."""
    try:
        return tuple(parse_routes(path.read_text()))
    except OSError:
        return ()


def parse_routes(text: str) -> Iterator[Subnet]:
    """Parse /proc/net/route: addresses and masks are 32-bit hexadecimal numbers, their low byte first."""
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8:
            continue
        with suppress(ValueError):  # a line of another form than the kernel's
            address, mask = (int.from_bytes(bytes.fromhex(field), "little") for field in (fields[1], fields[7]))
            if mask:
                yield ipaddress.IPv4Network((address, bin(mask).count("1")), strict=False)


def read_local_addresses(path: Path = Path("/proc/net/fib_trie")) -> tuple[str, ...]:
    """Read this machine's own IPv4 addresses. Empty where the file is not there."""
    try:
        return parse_local_addresses(path.read_text())
    except OSError:
        return ()


def parse_local_addresses(text: str) -> tuple[str, ...]:
    """Parse /proc/net/fib_trie: an address is on a line of its own, and what it is on those after it."""
    found = re.findall(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host LOCAL", text)
    return tuple(sorted({str(ipaddress.IPv4Address(it)) for it in found}, key=ipaddress.IPv4Address))


def choose_port(lab: str, guest: str, avoid: Iterable[int] = ()) -> int:
    """Choose the loopback port that is forwarded to a guest: always the same one, or the next that is free.

    Raises `FailedError` when every port of the range is taken.
    """
    avoided = avoid if isinstance(avoid, Set) else set(avoid)
    start = int.from_bytes(hashlib.sha256(f"{lab}/{guest}".encode()).digest()[:4], "big") % _PORTS
    for offset in range(_PORTS):
        port = _FIRST_PORT + (start + offset) % _PORTS
        if port not in avoided and _is_free(port):
            return port
    raise FailedError(f"No free port is left between {_FIRST_PORT} and {_FIRST_PORT + _PORTS - 1} on 127.0.0.1.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
