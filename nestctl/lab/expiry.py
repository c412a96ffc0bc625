"""When a lab's time is over, as it stands in its domains' metadata. Pure: the time now is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from xml.etree import ElementTree

from nestctl.adapters.libvirt import Domain
from nestctl.lab.render import parse_mark

# A namespace of its own: it is written without the domain being defined anew.
NAMESPACE = "urn:nestctl:expiry:1"
PREFIX = "nestctl-expiry"


@dataclass(frozen=True, kw_only=True)
class Expiry:
    """The time (UTC) at which a lab expires, and what becomes of it: 'stop' or 'delete'."""

    at: datetime
    action: str


class Due(Enum):
    """What is to be done about a lab now."""

    NOTHING = "nothing"
    WARN = "warn"
    STOP = "stop"
    DELETE = "delete"


@dataclass(frozen=True, kw_only=True)
class LabExpiry:
    """A lab that is there, when it expires (None: never), and whether any of its guests runs."""

    lab: str
    expiry: Expiry | None
    is_running: bool


def render_expiry(expiry: Expiry) -> str:
    """Render the element for a domain's metadata, in whole seconds and without its namespace, which libvirt adds."""
    return f"<expiry at='{expiry.at.astimezone(UTC).isoformat(timespec='seconds')}' action='{expiry.action}'/>"


def parse_expiry(xml: str) -> Expiry | None:
    """Find a domain's expiry; None when it has none that can be read."""
    element = ElementTree.fromstring(xml).find(f"metadata/{{{NAMESPACE}}}expiry")  # noqa: S314 - libvirt's own output
    if element is None:
        return None
    try:
        at = datetime.fromisoformat(element.get("at", ""))
    except ValueError:
        return None
    action = element.get("action", "")
    return Expiry(at=at, action=action) if at.tzinfo and action in {"stop", "delete"} else None


def list_expiries(domains: Iterable[Domain]) -> tuple[LabExpiry, ...]:
    """Sum up the labs among a machine's domains, by name; a lab expires when the first of its guests does."""
    found: dict[str, LabExpiry] = {}
    for domain in domains:
        if mark := parse_mark(domain.xml):
            seen = LabExpiry(lab=mark.lab, expiry=parse_expiry(domain.xml), is_running=domain.is_running)
            found[mark.lab] = _merge(found[mark.lab], seen) if mark.lab in found else seen
    return tuple(found[name] for name in sorted(found))


def assess(lab: LabExpiry, now: datetime, warn_before: timedelta) -> Due:
    """Decide what is to be done about a lab. One that has been stopped already needs nothing more."""
    if lab.expiry is None:
        return Due.NOTHING
    if now >= lab.expiry.at:
        if lab.expiry.action == "delete":
            return Due.DELETE
        return Due.STOP if lab.is_running else Due.NOTHING
    return Due.WARN if lab.is_running and lab.expiry.at - now <= warn_before else Due.NOTHING


def extend(expiry: Expiry | None, now: datetime, by: timedelta) -> Expiry:
    """Put an expiry off: by so much from when it is, or from now on where that is past or there is none."""
    there = expiry or Expiry(at=now, action="stop")
    return replace(there, at=max(there.at, now) + by)


def _merge(one: LabExpiry, other: LabExpiry) -> LabExpiry:
    expiries = sorted((it for it in (one.expiry, other.expiry) if it), key=lambda it: it.at)
    is_running = one.is_running or other.is_running
    return replace(one, expiry=expiries[0] if expiries else None, is_running=is_running)
