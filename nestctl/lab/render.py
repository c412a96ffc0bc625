"""From a plan to what is sent: the XML libvirt gets. Nothing here touches the world."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nestctl.lab.network_plan import FilterPlan, NetworkPlan
from nestctl.lab.plan import Contact, GuestPlan
from nestctl.lab.profiles import find_profile
from nestctl.model.quota import CPU_PERIOD_US, DISK_GROUP
from nestctl.paths import resource

NAMESPACE = "urn:nestctl:1"
EMULATOR = "/usr/bin/qemu-system-x86_64"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What nestctl wrote into a domain's metadata: whose it is, and where it answers on its hypervisor's network.

    `settings` is what it was made with (see `GuestPlan`); empty when they cannot be read any more. A domain that a lab
    has adopted bears none: see `nestctl.lab.adoption`.
    """

    lab: str
    name: str
    level: int
    address: str
    is_hypervisor: bool
    digest: str
    settings: Mapping[str, Any]
    created: str = ""
    subnets: tuple[str, ...] = ()
    is_adopted: bool = False


def render_domain(plan: GuestPlan, *, created: str = "") -> str:
    """Render a guest's domain XML; `created` is when the guest was made, in ISO 8601, and is left out when empty."""
    text = json.dumps(plan.settings, separators=(",", ":"), ensure_ascii=False)
    settings = Markup(html.escape(text, quote=False))  # noqa: S704  JSON's many quotes stay readable
    profile = find_profile(plan.profile)
    template = _environment().get_template("domain.xml.j2")
    return template.render(
        guest=plan,
        profile=profile,
        profile_xml={
            "cpu": _render_part(profile.cpu, plan, indent=4),
            "features": _render_part(profile.features, plan, indent=4),
            "timers": _render_part(profile.timers, plan, indent=4),
            "devices": _render_part(profile.devices, plan, indent=4),
        },
        created=created,
        settings=settings,
        namespace=NAMESPACE,
        emulator=EMULATOR,
        cpu_period_us=CPU_PERIOD_US,
        disk_group=DISK_GROUP,
    )


def _render_part(template: str, plan: GuestPlan, *, indent: int) -> Markup:
    """Render XML of a profile's for a place in the domain; a profile comes with nestctl, and is no user's text."""
    if not template:
        return Markup()
    text = _environment().from_string(template).render(guest=plan)
    return Markup("".join(f"{' ' * indent}{line}\n" for line in text.splitlines()))  # noqa: S704


def render_network(network: NetworkPlan) -> str:
    """Render the XML of a network."""
    return _environment().get_template("network.xml.j2").render(network=network, namespace=NAMESPACE)


def render_filter(plan: FilterPlan) -> str:
    """Render the XML of the filter of a network's guests."""
    return _environment().get_template("filter.xml.j2").render(filter=plan)


def render_page(template: str, **values: Any) -> str:
    """Render a page for people, which needs no other file."""
    return _environment().get_template(template).render(values)


def parse_mark(xml: str) -> Mark | None:
    """Find nestctl's mark in a domain's XML; None when it is not ours."""
    element = ElementTree.fromstring(xml).find(f"metadata/{{{NAMESPACE}}}guest")  # noqa: S314 - libvirt's own output
    if element is None:
        return None
    return Mark(
        lab=element.get("lab", ""),
        name=element.get("name", ""),
        level=int(level) if (level := element.get("level", "")).isdecimal() else 1,
        address=element.get("address", ""),
        is_hypervisor=element.get("hypervisor") == "yes",
        digest=element.get("digest", ""),
        settings=_parse_settings(element.findtext(f"{{{NAMESPACE}}}settings", "")),
        created=element.get("created", ""),
        subnets=tuple(element.get("subnets", "").split()),
    )


def _parse_settings(text: str) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


@dataclass(frozen=True, kw_only=True)
class NetworkMark:
    """What nestctl wrote into a network's metadata; `label` is the name of a network of this machine in its lab."""

    lab: str
    label: str = ""


def parse_network_mark(xml: str) -> NetworkMark | None:
    """Find nestctl's mark in a network's XML; None when it is not ours."""
    element = ElementTree.fromstring(xml).find(f"metadata/{{{NAMESPACE}}}network")  # noqa: S314
    return NetworkMark(lab=element.get("lab", ""), label=element.get("label", "")) if element is not None else None


def parse_network_owner(xml: str) -> str:
    """Find the lab that a network belongs to; empty when it is not ours."""
    mark = parse_network_mark(xml)
    return mark.lab if mark else ""


def parse_network_subnets(xml: str) -> Iterator[IPv4Network]:
    """Yield the IPv4 subnets of a network, whoever's it is."""
    for element in ElementTree.fromstring(xml).iterfind("ip"):  # noqa: S314
        mask = element.get("prefix") or element.get("netmask") or "32"
        with suppress(ValueError):  # an IPv6 address
            yield IPv4Network(f"{element.get('address')}/{mask}", strict=False)


def parse_contact(domain_name: str, xml: str) -> Contact:
    """Read from a domain of ours how to reach its guest. Raises `ValueError` when it has no mark."""
    if (mark := parse_mark(xml)) is None:
        raise ValueError(f"'{domain_name}' has no mark")
    log = ElementTree.fromstring(xml).find("devices/serial/log")  # noqa: S314
    return Contact(
        lab=mark.lab,
        name=mark.name,
        level=mark.level,
        domain=domain_name,
        address=mark.address,
        port=parse_forwarded_port(xml) or 0,
        console=PurePosixPath(log.get("file", "") if log is not None else ""),
    )


def parse_domain_type(xml: str) -> str:
    """Read the type of a domain: 'kvm', or 'qemu' when it is emulated."""
    return ElementTree.fromstring(xml).get("type", "")  # noqa: S314


def parse_forwarded_port(xml: str) -> int | None:
    """Find the loopback port that a domain forwards to its guest's SSH port."""
    found = re.search(r"hostfwd=tcp:127\.0\.0\.1:(\d+)-", xml)
    return int(found[1]) if found else None


def parse_terminal(live_xml: str) -> str:
    """Find the pseudo-terminal of a running domain's serial console; empty when it has none."""
    source = ElementTree.fromstring(live_xml).find("devices/serial[@type='pty']/source")  # noqa: S314
    return source.get("path", "") if source is not None else ""


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(resource("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
