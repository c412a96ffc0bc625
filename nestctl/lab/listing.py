"""List the labs that are on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from nestctl.adapters.libvirt import Domain
from nestctl.adapters.uri import choose_uri
from nestctl.errors import NestctlError
from nestctl.lab.adoption import Adoption, list_adopted_domains
from nestctl.lab.expiry import list_expiries
from nestctl.lab.host import has_domains, open_connection
from nestctl.lab.render import Mark, parse_mark
from nestctl.lab.status import age_s
from nestctl.lab.store import find_lab, list_labs
from nestctl.model.lab import walk_guests


@dataclass(frozen=True, kw_only=True)
class LabSummary:
    """A lab as this machine's libvirt and files have it: its guests inside guests are not asked.

    `outermost` counts the guests of this machine, `running` those of them that run, and `adopted` those whose domains
    are somebody else's; `guests` are all of its file, None when that cannot be read. `age_s` is the time since its
    oldest guest was made, in seconds, and `expires` when its time is over (ISO 8601, UTC), or empty.
    """

    name: str
    outermost: int
    running: int
    guests: int | None
    age_s: int | None
    expires: str = ""
    adopted: int = 0


def summarize_labs(*, connect: str | None) -> tuple[LabSummary, ...]:
    """List every lab that has a directory or a domain here, by name."""
    uri = choose_uri(connect)
    domains: tuple[Domain, ...] = ()
    if has_domains(uri):
        with open_connection(uri) as hypervisor:
            domains = hypervisor.list_domains()
    marked = [(domain, mark) for domain in domains if (mark := parse_mark(domain.xml))]
    names = sorted({*list_labs(), *(mark.lab for _, mark in marked)})
    return tuple(
        _summarize(name, [it for it in marked if it[1].lab == name], list_adopted_domains(domains, name))
        for name in names
    )


def _summarize(name: str, made: list[tuple[Domain, Mark]], adopted: tuple[tuple[Domain, Adoption], ...]) -> LabSummary:
    own = [*made, *((domain, it.mark(name)) for domain, it in adopted)]
    now = datetime.now(UTC)
    ages = [age for _, mark in own if (age := age_s(mark.created, now)) is not None]
    ends = [it.expiry for it in list_expiries(domain for domain, _ in own) if it.expiry]
    return LabSummary(
        name=name,
        outermost=len(own),
        running=sum(domain.is_running for domain, _ in own),
        guests=_count_guests(name),
        age_s=max(ages, default=None),
        expires=ends[0].at.isoformat() if ends else "",
        adopted=len(adopted),
    )


def _count_guests(name: str) -> int | None:
    try:
        return sum(1 for _ in walk_guests(find_lab(name).guests))
    except NestctlError:
        return None
