"""See to it that labs end when their time is over: tell their guests, stop them, or delete all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from nestctl.adapters.uri import choose_uri
from nestctl.deadline import Deadline
from nestctl.errors import NestctlError
from nestctl.lab.expiry import Due, Expiry, LabExpiry, assess, list_expiries
from nestctl.lab.host import has_domains, open_connection
from nestctl.lab.level import Step, list_own_domains
from nestctl.lab.nodes import list_nodes
from nestctl.lab.reach import run_on_all
from nestctl.lab.remove import down
from nestctl.lab.store import read_kept_lab

# What a guest is given to shut itself down, the guests inside it with it.
_SHUTDOWN_S = 120.0

# What telling the guests may take; it is no reason to be late.
_TELLING_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A lab, what was to be done about it, and what went wrong with that."""

    lab: str
    expiry: Expiry | None
    due: Due
    trouble: str = ""


def expire_labs(
    *,
    connect: str | None,
    now: datetime,
    warn_before: timedelta,
    is_dry_run: bool,
    step: Step,
    warn: Callable[[str], None],
) -> tuple[Seen, ...]:
    """Look at every lab of this machine, and do what is due: tell its guests, stop them, or delete all of it.

    Each is looked at when its turn has come: the one before may have taken minutes, and its end may have been put off
    meanwhile. One lab's failure is its row's, and keeps no other from its end.
    """
    uri = choose_uri(connect)
    seen = []
    for name in [it.lab for it in _read_expiries(uri)]:
        for lab in [it for it in _read_expiries(uri) if it.lab == name]:
            due = assess(lab, now, warn_before)
            seen.append(_expire_one(lab, due, connect, now, is_dry_run, step, warn))
    return tuple(seen)


def _read_expiries(uri: str) -> tuple[LabExpiry, ...]:
    if not has_domains(uri):
        return ()
    with open_connection(uri) as hypervisor:
        return list_expiries(hypervisor.list_domains())


def _expire_one(
    lab: LabExpiry,
    due: Due,
    connect: str | None,
    now: datetime,
    is_dry_run: bool,
    step: Step,
    warn: Callable[[str], None],
) -> Seen:
    trouble = ""
    try:
        if is_dry_run:
            pass
        elif due is Due.WARN and lab.expiry:
            _tell_guests(lab.lab, lab.expiry, now)
        elif due is Due.STOP:
            _stop(lab.lab, connect, step)
        elif due is Due.DELETE:
            down(lab.lab, connect=connect, step=step, warn=warn)
    except NestctlError as error:
        trouble = error.message
    except OSError as error:
        trouble = str(error)
    return Seen(lab=lab.lab, expiry=lab.expiry, due=due, trouble=trouble)


def _stop(name: str, connect: str | None, step: Step) -> None:
    """Shut down the guests of this machine: those inside go with them."""
    deadline = Deadline.after(_SHUTDOWN_S, f"The end of the guests of '{name}'")
    with open_connection(choose_uri(connect)) as hypervisor:
        for domain, mark in list_own_domains(hypervisor, name):
            with step(f"Stopping {mark.name}", lab=name, node=mark.name, level=mark.level):
                hypervisor.shut_down_domain(domain.name, deadline)


def _tell_guests(name: str, expiry: Expiry, now: datetime) -> None:
    minutes = max(1, round((expiry.at - now).total_seconds() / 60))
    become = "is stopped" if expiry.action == "stop" else "is deleted with all that is on it"
    when = f"{minutes} minute{'s' if minutes > 1 else ''}"
    text = f"nestctl: this machine {become} in {when}. Whoever runs the lab can put it off."
    deadline = Deadline.after(_TELLING_S, f"Telling the guests of '{name}'")
    run_on_all(list_nodes(read_kept_lab(name)), ("wall", text), deadline)
