"""Show what `up` would do and define, without touching anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from nestctl.adapters.process import LocalShell
from nestctl.lab.compare import Change, compare, wanted_plans
from nestctl.lab.host import Host, has_domains, open_connection, plan_on, read_host
from nestctl.lab.keys import LabKeys, find_keys
from nestctl.lab.level import Level, SshAccess
from nestctl.lab.observe import Inside, Look, observe
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
    changes = compare(*_plan(host, lab, find_keys(lab.name)))
    return tuple(_preview(wanted_plans(changes), "this machine"))


def preview_changes(lab: Lab, *, connect: str | None) -> tuple[Change, ...]:
    """Compare what is there at every level with what is wanted: exactly what `up` would do."""
    host = read_host(connect)
    return compare(*_plan(host, lab, find_keys(lab.name)))


def render_preview(documents: Iterable[Document]) -> dict[str, Any]:
    return {"schema": "nestctl.render/1", "documents": [asdict(document) for document in documents]}


def _plan(host: Host, lab: Lab, keys: LabKeys | None) -> tuple[tuple[GuestPlan, ...], Inside]:
    """Plan a lab, and look what is there of it."""
    if not has_domains(host.uri):
        return plan_on(host, lab, ()), Inside()
    look = Look(lab=lab.name, keys=keys, access=SshAccess(), is_thorough=False)
    with open_connection(host.uri) as hypervisor:
        there = observe(Level(shell=LocalShell(), hypervisor=hypervisor), look)
        return plan_on(host, lab, (it.domain for it in there.guests), hypervisor.list_networks()), there


def _preview(plans: tuple[GuestPlan, ...], where: str) -> Iterator[Document]:
    for plan in plans:
        yield Document(where=where, kind="domain", name=plan.domain, xml=render_domain(plan))
        if plan.network:
            xml = render_network(plan.network)
            yield Document(where=plan.name, kind="network", name=plan.network.name, xml=xml)
        yield from _preview(plan.guests, plan.name)
