"""A lab as its file declares it: with defaults, and guests that stand for many. `nestctl.lab.expand` writes it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from nestctl.model.lab import (
    MOST_GUESTS,
    MOST_OUTERMOST,
    NAME_PATTERN,
    AcceptedRisks,
    Adoptable,
    GuestForward,
    GuestNetwork,
    LabImage,
    Name,
    OnExpiry,
    Settings,
    Trust,
    Ttl,
)
from nestctl.model.network import Network

# A name, or a text that becomes one when a row of a roster is put into it.
NameTemplate = Annotated[
    str, StringConstraints(pattern=rf"({NAME_PATTERN})|(^[^\x00-\x1f]*\{{\{{[^\x00-\x1f]*\}}\}}[^\x00-\x1f]*$)")
]

_ABOUT_DEFAULTS = "that do not say otherwise themselves; labels and seeds add up"


class Defaults(Settings):
    """Settings of guests that do not say otherwise."""


_ABOUT_FOR_EACH = (
    "A roster beside the lab file (.csv with a head line, or .yaml with a list of mappings): one {} for each row. "
    "'{{{{ row.COLUMN }}}}' stands for a value of it in "
)


class DeclaredNetwork(Network):
    """A network of a lab file, or one for each row of a roster."""

    for_each: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=1000,
            description=_ABOUT_FOR_EACH.format("network") + "the network's name.",
        ),
    ] = None


class DeclaredGuest(Settings):
    """A guest of a lab file, or several that are alike."""

    count: Annotated[
        int | None,
        Field(
            ge=1,
            le=MOST_OUTERMOST,
            description="How many there are of it: NAME-1 and so on, and the guests inside each get its number too.",
        ),
    ] = None
    for_each: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=1000,
            description=_ABOUT_FOR_EACH.format("guest")
            + "the guest's name, network and seed, and in those of the guests inside.",
        ),
    ] = None
    network: GuestNetwork = ""
    forward: GuestForward = None
    adopt: Adoptable = None
    defaults: Annotated[
        Defaults, Field(description=f"Settings of the guests inside, at any depth, {_ABOUT_DEFAULTS}.")
    ] = Defaults()
    guests: Annotated[
        Mapping[NameTemplate, DeclaredGuest],
        Field(max_length=MOST_GUESTS, description="The guests inside this guest, by name; it is a hypervisor then."),
    ] = {}

    @model_validator(mode="after")
    def _is_adopted_as_it_is(self) -> Self:
        if self.adopt and (given := sorted(self.model_fields_set - {"adopt", "guests", "defaults"})):
            raise ValueError(f"it is adopted as it is, and '{given[0]}' says what it is like: leave that out")
        return self

    @model_validator(mode="after")
    def _stands_for_many_in_one_way(self) -> Self:
        if self.count is not None and self.for_each is not None:
            raise ValueError("it has 'count' and 'for_each': give one of them")
        return self


class DeclaredLab(BaseModel):
    """A lab file's content."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, title="Lab")

    name: Annotated[Name, Field(description="The lab's name. A guest's domain is called LAB-GUEST.")]
    image: LabImage = ""
    ttl: Ttl = ""
    on_expiry: OnExpiry = "stop"
    trust: Trust = "own"
    accepted_risks: AcceptedRisks = ()
    networks: Annotated[
        Mapping[NameTemplate, DeclaredNetwork],
        Field(max_length=MOST_GUESTS, description="Networks for guests of this machine, by name."),
    ] = {}
    defaults: Annotated[Defaults, Field(description=f"Settings of all guests {_ABOUT_DEFAULTS}.")] = Defaults()
    guests: Annotated[
        Mapping[NameTemplate, DeclaredGuest],
        Field(
            min_length=1,
            max_length=MOST_OUTERMOST,
            description="The guests of this machine, by name. A guest's name is unique in the whole lab.",
        ),
    ]
