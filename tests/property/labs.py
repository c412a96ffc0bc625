"""Labs of any shape that a lab file can have."""

from __future__ import annotations

from hypothesis import strategies as st

from nestctl.model.lab import HYPERVISOR_RESERVE_MIB, Guest, Lab
from nestctl.model.network import Network
from nestctl.model.quota import Quota
from nestctl.model.tuning import Tuning

# Few letters: names that are alike are found sooner. The pattern is that of the model.
names = st.from_regex(r"[a-c]([a-c0-9-]{0,6}[a-c0-9])?", fullmatch=True)

quotas = st.builds(
    Quota,
    cpu_shares=st.none() | st.integers(2, 10_000),
    cpu_cap_percent=st.none() | st.integers(5, 400),
    disk_write_mib_s=st.none() | st.integers(1, 1000),
)

tunings = st.builds(
    Tuning, disk_cache=st.sampled_from((None, "none", "unsafe")), disk_iothread=st.booleans(), huge_pages=st.booleans()
)


@st.composite
def labs(draw: st.DrawFn, max_cpus: int = 255) -> Lab:
    """A lab whose guests have room for those inside them, with names that are unique in all of it."""
    name, *guest_names = draw(st.lists(names, min_size=2, max_size=9, unique=True))
    tree: dict[str, list[str]] = {guest: [] for guest in guest_names}
    top: list[str] = []
    for index, guest in enumerate(guest_names):
        place = draw(st.integers(-1, index - 1))
        (top if place < 0 else tree[guest_names[place]]).append(guest)

    networks = {
        network: Network(isolate_guests=draw(st.booleans()), forward=draw(st.sampled_from(("nat", "none"))))
        for network in draw(st.lists(names, max_size=2, unique=True))
    }

    def make(guest: str) -> Guest:
        inner = {child: make(child) for child in tree[guest]}
        needed = sum(child.memory_mib for child in inner.values()) + (HYPERVISOR_RESERVE_MIB if inner else 256)
        return Guest(
            network=draw(st.sampled_from(("", *networks))) if guest in top else "",
            quota=draw(quotas),
            tuning=draw(tunings),
            cpus=draw(st.integers(1, max_cpus)),
            memory_mib=needed + draw(st.integers(0, 4096)),
            disk_gib=draw(st.integers(2, 65_536)),
            guests=inner,
        )

    return Lab(name=name, networks=networks, guests={guest: make(guest) for guest in top})
