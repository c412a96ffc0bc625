"""From a lab as its file declares it to the lab with every guest written out. Pure: rosters come as values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from nestctl.model.declared import DeclaredGuest, DeclaredLab, DeclaredNetwork, Defaults
from nestctl.model.lab import Settings

Location = tuple[str, ...]

# More than any machine runs: counts multiply from level to level.
MOST_EXPANDED = 20_000

_SUMS = ("labels", "seed")
_LAB_KEYS = ("name", "image", "ttl", "on_expiry", "trust", "accepted_risks")
_OWN_KEYS = {"guests", "defaults", "count", "for_each", "network", "adopt"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a roster; `line` is where it is in its file."""

    source: str
    line: int
    values: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.source}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where something of an expanded lab is declared, and for which row of a roster it was written out."""

    location: Location
    row: Row | None


class ExpansionError(ValueError):
    """A guest cannot be written out."""

    def __init__(self, origin: Origin, said: str) -> None:
        super().__init__(said)
        self.origin = origin
        self.said = said


@dataclass(frozen=True, kw_only=True)
class Expanded:
    """A lab as a document of the model `Lab`, where each of its parts comes from, and the names of its guests."""

    document: dict[str, Any]
    origins: dict[Location, Origin] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def trace(self, location: Location) -> Origin:
        """Find what declares a part of the document: the nearest that is known, and what is below it as it is."""
        for length in range(len(location), -1, -1):
            if origin := self.origins.get(location[:length]):
                return replace(origin, location=origin.location + location[length:])
        return Origin(location=location, row=None)


@dataclass(frozen=True, kw_only=True)
class _Given:
    """Settings that are given somewhere, and where."""

    settings: Settings
    location: Location


@dataclass(frozen=True, kw_only=True)
class _Scope:
    """What holds for the guests at one place: `defaults` from the outermost on, `suffix` of numbered guests."""

    declared: Location
    expanded: Location
    defaults: tuple[_Given, ...]
    suffix: str = ""
    row: Row | None = None
    variables: Mapping[str, Any] | None = None


def expand_lab(lab: DeclaredLab, rosters: Mapping[str, tuple[Row, ...]]) -> Expanded:
    """Write every guest of a lab out: counted ones, those of rosters' rows, each with what it inherits.

    `rosters` has the rows by the text of `for_each`. Raises `ExpansionError` for a guest that cannot be written out.
    """
    expanded = Expanded(document={**{key: getattr(lab, key) for key in _LAB_KEYS}, "networks": {}, "guests": {}})
    scope = _Scope(declared=(), expanded=(), defaults=_defaults((), lab.defaults, ("defaults",)))
    for name, network in lab.networks.items():
        _expand_network(name, network, scope, rosters, expanded)
    for name, guest in lab.guests.items():
        _expand_guests(name, guest, scope, rosters, expanded, expanded.document["guests"])
    return expanded


def list_rosters(lab: DeclaredLab) -> Iterator[tuple[Location, str]]:
    """Yield where rosters are named, and their names."""
    for name, network in lab.networks.items():
        if network.for_each is not None:
            yield ("networks", name, "for_each"), network.for_each
    yield from _list_rosters(lab.guests, ())


def _list_rosters(guests: Mapping[str, DeclaredGuest], location: Location) -> Iterator[tuple[Location, str]]:
    for name, guest in guests.items():
        here = (*location, "guests", name)
        if guest.for_each is not None:
            yield (*here, "for_each"), guest.for_each
        yield from _list_rosters(guest.guests, here)


def _expand_network(
    name: str, network: DeclaredNetwork, outer: _Scope, rosters: Mapping[str, tuple[Row, ...]], expanded: Expanded
) -> None:
    target = expanded.document["networks"]
    for scope in _repeat_rows(network.for_each, outer, rosters):
        full_name = _render(name, scope, ("networks", name))
        origin = Origin(location=("networks", name), row=scope.row)
        if full_name in target:
            raise ExpansionError(
                origin, f"gives the name '{full_name}' a second time; put something of the row into it"
            )
        expanded.origins[("networks", full_name)] = origin
        target[full_name] = network.model_dump(exclude={"for_each"}, exclude_unset=True)


def _expand_guests(
    name: str,
    guest: DeclaredGuest,
    outer: _Scope,
    rosters: Mapping[str, tuple[Row, ...]],
    expanded: Expanded,
    target: dict[str, Any],
) -> None:
    for scope in _repeat(guest, outer, rosters):
        full_name = _render(name, scope, (*outer.declared, "guests", name)) + scope.suffix
        location = (*outer.expanded, "guests", full_name)
        inner = replace(scope, declared=(*outer.declared, "guests", name), expanded=location)
        origin = Origin(location=inner.declared, row=scope.row)
        if full_name in target:
            hint = "put something of the row into its name" if guest.for_each else "names are unique"
            raise ExpansionError(origin, f"gives the name '{full_name}' a second time; {hint}")
        expanded.origins[location] = origin
        expanded.names.append(full_name)
        if len(expanded.names) > MOST_EXPANDED:
            raise ExpansionError(origin, f"makes more than {MOST_EXPANDED} guests of this lab")
        document = _settle(guest, inner, expanded)
        if guest.network:
            document["network"] = _render(guest.network, inner, (*inner.declared, "network"))
        target[full_name] = document
        document["guests"] = {}
        below = replace(inner, defaults=_defaults(inner.defaults, guest.defaults, (*inner.declared, "defaults")))
        for child, settings in guest.guests.items():
            _expand_guests(child, settings, below, rosters, expanded, document["guests"])


def _repeat(guest: DeclaredGuest, scope: _Scope, rosters: Mapping[str, tuple[Row, ...]]) -> Iterator[_Scope]:
    """Yield the scope of each guest that a declared one stands for."""
    if guest.for_each is not None:
        yield from _repeat_rows(guest.for_each, scope, rosters)
    elif guest.count is not None:
        for number in range(1, guest.count + 1):
            variables = {**(scope.variables or {}), "number": number}
            yield replace(scope, suffix=f"{scope.suffix}-{number}", variables=variables)
    else:
        yield scope


def _repeat_rows(roster: str | None, scope: _Scope, rosters: Mapping[str, tuple[Row, ...]]) -> Iterator[_Scope]:
    if roster is None:
        yield scope
        return
    for number, row in enumerate(rosters[roster], 1):
        yield replace(scope, row=row, variables={"row": SimpleNamespace(**row.values), "number": number})


def _defaults(outer: tuple[_Given, ...], defaults: Defaults, location: Location) -> tuple[_Given, ...]:
    return (*outer, _Given(settings=defaults, location=location)) if defaults.model_fields_set else outer


def _settle(guest: DeclaredGuest, scope: _Scope, expanded: Expanded) -> dict[str, Any]:
    """Put together what a guest is given, by the nearest that gives it; labels and seeds add up."""
    if guest.adopt:
        expanded.origins[(*scope.expanded, "adopt")] = Origin(location=(*scope.declared, "adopt"), row=scope.row)
        return {"adopt": guest.adopt}
    given = (*scope.defaults, _Given(settings=guest, location=scope.declared))
    document: dict[str, Any] = {}
    for it in given:
        for key in it.settings.model_fields_set - _OWN_KEYS - set(_SUMS):
            document[key] = getattr(it.settings, key)
            expanded.origins[(*scope.expanded, key)] = Origin(location=(*it.location, key), row=scope.row)
        if it.settings.labels:
            document["labels"] = {**document.get("labels", {}), **it.settings.labels}
        if not it.settings.seed.is_empty:
            _add_seed(document.setdefault("seed", {}), it, scope, expanded)
    return document


def _add_seed(document: dict[str, Any], given: _Given, scope: _Scope, expanded: Expanded) -> None:
    for kind, items in given.settings.seed.model_dump().items():
        there = document.setdefault(kind, [])
        for index, item in enumerate(items):
            declared = (*given.location, "seed", kind, str(index))
            location = (*scope.expanded, "seed", kind, str(len(there)))
            expanded.origins[location] = Origin(location=declared, row=scope.row)
            there.append(_render_all(item, scope, declared))


def _render_all(value: Any, scope: _Scope, location: Location) -> Any:
    if isinstance(value, str):
        return _render(value, scope, location)
    if isinstance(value, dict):
        return {key: _render_all(it, scope, (*location, key)) for key, it in value.items()}
    return [_render_all(it, scope, (*location, str(index))) for index, it in enumerate(value)]


def _render(text: str, scope: _Scope, location: Location) -> str:
    """Fill a text of a guest that stands for many; any other text is taken as it is."""
    if scope.variables is None or not ("{{" in text or "{%" in text):
        return text
    try:
        return _compile(text).render(scope.variables)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        said = re.sub(r"'(types\.)?SimpleNamespace( object'|' object)", "the row", str(error)).rstrip(".")
        raise ExpansionError(Origin(location=location, row=scope.row), f"cannot be filled: {said}") from error


_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


@lru_cache(maxsize=1000)
def _compile(text: str) -> Template:
    """Compile a text once for all rows of a roster."""
    return _ENVIRONMENT.from_string(text)
