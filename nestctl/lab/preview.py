"""Show what `up` would do and define, without touching anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from nestctl.adapters.process import LocalShell
from nestctl.lab.access import SshAccess
from nestctl.lab.admission import Admission, assess_room, read_room
from nestctl.lab.compare import Action, Change, compare, is_settled, wanted_plans
from nestctl.lab.host import Host, has_domains, open_connection, read_host, read_host_facts
from nestctl.lab.level import Level
from nestctl.lab.network_plan import NetworkPlan
from nestctl.lab.networks import NetworkChange, compare_networks
from nestctl.lab.observe import Inside, look_at, observe
from nestctl.lab.plan import GuestPlan, plan_lab, plan_networks
from nestctl.lab.render import render_domain, render_filter, render_network
from nestctl.lab.risk import Risk, read_risks
from nestctl.lab.store import lab_directory
from nestctl.model.lab import Lab


@dataclass(frozen=True, kw_only=True)
class Document:
    """A piece of XML, and the libvirt it is for: 'this machine', or the guest whose libvirt gets it."""

    where: str
    kind: str
    name: str
    xml: str


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What `up` would do: with guests and inside them, with networks of this machine; and what speaks against it.

    `admission` is None when nothing would be started.
    """

    guests: tuple[Change, ...]
    networks: tuple[NetworkChange, ...] = ()
    risks: tuple[Risk, ...] = ()
    admission: Admission | None = None

    @property
    def is_settled(self) -> bool:
        """Tell whether `up` would do nothing, as far as could be looked."""
        return is_settled(self.guests) and all(it.action is Action.KEEP for it in self.networks)


def preview_lab(lab: Lab, *, connect: str | None) -> tuple[Document, ...]:
    """Render everything that `up` defines, outermost first."""
    preview = _look(lab, read_host(connect))
    return (
        *_preview_networks([it.plan for it in preview.networks if it.plan]),
        *_preview(wanted_plans(preview.guests), "this machine"),
    )


def preview_changes(lab: Lab, *, connect: str | None) -> Preview:
    """Compare what is there at every level with what is wanted: exactly what `up` would do."""
    host = read_host(connect)
    preview = _look(lab, host)
    return replace(
        preview,
        risks=read_risks(lab, is_emulated=host.is_emulated),
        admission=assess_room(preview.guests, read_room(lab_directory(lab.name))),
    )


def render_preview(documents: Iterable[Document]) -> dict[str, Any]:
    """Render the JSON document of the schema 'nestctl.render/1'."""
    return {"schema": "nestctl.render/1", "documents": [asdict(document) for document in documents]}


def _look(lab: Lab, host: Host) -> Preview:
    """Plan a lab, and look what is there of it."""
    if not has_domains(host.uri):
        facts = read_host_facts(host, lab, (), ())
        networks = compare_networks(lab.name, plan_networks(lab, facts), (), ())
        return Preview(guests=compare(plan_lab(lab, facts), Inside()), networks=networks)
    with open_connection(host.uri) as hypervisor:
        level = Level(shell=LocalShell(), hypervisor=hypervisor)
        there = observe(level, look_at(lab, access=SshAccess(), is_thorough=False))
        networks_there, filters = hypervisor.list_networks(), hypervisor.list_filters()
    facts = read_host_facts(host, lab, there.domains, networks_there)
    return Preview(
        guests=compare(plan_lab(lab, facts), there),
        networks=compare_networks(lab.name, plan_networks(lab, facts), networks_there, filters),
    )


def _preview_networks(plans: Iterable[NetworkPlan]) -> Iterator[Document]:
    for plan in plans:
        if plan.filter:
            yield Document(where="this machine", kind="filter", name=plan.filter.name, xml=render_filter(plan.filter))
        yield Document(where="this machine", kind="network", name=plan.name, xml=render_network(plan))


def _preview(plans: tuple[GuestPlan, ...], where: str) -> Iterator[Document]:
    for plan in plans:
        if not plan.adopted:
            yield Document(where=where, kind="domain", name=plan.domain, xml=render_domain(plan))
        if plan.network:
            xml = render_network(plan.network)
            yield Document(where=plan.name, kind="network", name=plan.network.name, xml=xml)
        yield from _preview(plan.guests, plan.name)
