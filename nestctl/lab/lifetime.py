"""Note in a lab's domains when it expires, and put it off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from nestctl.adapters.libvirt import Hypervisor
from nestctl.adapters.uri import choose_uri
from nestctl.errors import UsageError
from nestctl.lab.expiry import (
    NAMESPACE,
    PREFIX,
    Expiry,
    extend,
    list_expiries,
    parse_expiry,
    render_expiry,
)
from nestctl.lab.host import open_connection
from nestctl.lab.level import list_own_domains
from nestctl.model.duration import parse_duration
from nestctl.model.lab import Lab


def now_utc() -> datetime:
    """Return the time in whole seconds, as expiries are written."""
    return datetime.now(UTC).replace(microsecond=0)


def ensure_expiry(hypervisor: Hypervisor, lab: Lab, now: datetime) -> None:
    """Note when a lab expires in those of its domains that do not say, or whose time is over: `up` begins it anew."""
    if not lab.ttl:
        return
    domains = [domain for domain, _ in list_own_domains(hypervisor, lab.name)]
    there = [expiry for domain in domains if (expiry := parse_expiry(domain.xml)) and expiry.at > now]
    # A guest that came later ends with the others.
    wanted = min(there, key=lambda it: it.at, default=Expiry(at=now + parse_duration(lab.ttl), action=lab.on_expiry))
    for domain in domains:
        if parse_expiry(domain.xml) != wanted:
            _write(hypervisor, domain.name, wanted)


def extend_lab(name: str, by: timedelta, *, connect: str | None, now: datetime) -> Expiry:
    """Put the end of a lab off and return it. Raises `UsageError` when no such lab is there."""
    with open_connection(choose_uri(connect)) as hypervisor:
        found = {it.lab: it for it in list_expiries(hypervisor.list_domains())}
        if name not in found:
            raise UsageError(f"There is no guest of a lab '{name}' on this machine.")
        later = extend(found[name].expiry, now, by)
        for domain, _ in list_own_domains(hypervisor, name):
            _write(hypervisor, domain.name, later)
        return later


def _write(hypervisor: Hypervisor, domain: str, expiry: Expiry) -> None:
    hypervisor.write_metadata(domain, render_expiry(expiry), prefix=PREFIX, namespace=NAMESPACE)
