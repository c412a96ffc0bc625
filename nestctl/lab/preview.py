"""Show what `up` would define, without touching anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nestctl.adapters.libvirt import Domain
from nestctl.lab.host import Host, open_connection, plan_on, read_host
from nestctl.lab.plan import GuestPlan
from nestctl.lab.render import render_domain, render_network
from nestctl.model.lab import Lab


@dataclass(frozen=True, kw_only=True)
class Document:
    """A piece of XML, and the libvirt it is for: 'this machine', or the guest whose libvirt gets it."""

    where: str
    kind: str
    name: str
    xml: str


def preview_lab(lab: Lab, *, connect: str | None) -> tuple[Document, ...]:
    """Render everything that `up` defines, outermost first."""
    host = read_host(connect)
    return tuple(_preview(plan_on(host, lab, _observe(host)), "this machine"))


def render_preview(documents: Iterable[Document]) -> dict[str, Any]:
    return {"schema": "nestctl.render/1", "documents": [asdict(document) for document in documents]}


def _observe(host: Host) -> tuple[Domain, ...]:
    """Look which domains are there; where the embedded driver has no directory yet, none are, and none is made."""
    if "/embed?root=" in host.uri and not Path(host.uri.partition("root=")[2]).is_dir():
        return ()
    with open_connection(host.uri) as hypervisor:
        return hypervisor.list_domains()


def _preview(plans: tuple[GuestPlan, ...], where: str) -> Iterator[Document]:
    for plan in plans:
        yield Document(where=where, kind="domain", name=plan.domain, xml=render_domain(plan))
        if plan.network:
            xml = render_network(plan.network)
            yield Document(where=plan.name, kind="network", name=plan.network.name, xml=xml)
        yield from _preview(plan.guests, plan.name)
