"""Networks of this machine's for the guests of a lab: who may talk to whom is part of them."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# One rule of a filter each, for every guest.
MOST_ALLOWED = 32


Forward = Literal["nat", "none"]


def _address(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value)) if value else ""
    except ValueError as error:
        raise ValueError(f"'{value[:60]}' is no IPv4 address") from error


def _subnet(value: str) -> str:
    try:
        return str(ipaddress.IPv4Network(value))
    except ValueError as error:
        raise ValueError(f"'{value[:60]}' is no IPv4 address or subnet such as 192.0.2.0/24") from error


class Network(BaseModel):
    """A network of this machine's libvirt, with a bridge and filters of its own.

    A guest on it can use no MAC or IP address but its own, and reaches neither this machine nor other networks of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    forward: Annotated[
        Forward,
        Field(
            description="'nat': its guests reach the world outside through this machine, but no private address "
            "(RFC 1918 and the like), which is where other tenants and the management are. 'none': they reach only "
            "each other."
        ),
    ] = "nat"
    isolate_guests: Annotated[
        bool, Field(description="Keep its guests from each other, too: their ports of the bridge are isolated.")
    ] = False
    dns: Annotated[
        str,
        AfterValidator(_address),
        Field(description="The name server of its guests, which they may ask wherever it is. When empty, none."),
    ] = ""
    allow: Annotated[
        tuple[Annotated[str, AfterValidator(_subnet)], ...],
        Field(
            strict=False,
            max_length=MOST_ALLOWED,
            description="Addresses and subnets that its guests may reach beside, such as a mirror in 10.0.0.0/8.",
        ),
    ] = ()
