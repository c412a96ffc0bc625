"""A domain that is there already, as a hypervisor of a lab."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# [USER@]HOST[:PORT], HOST a name, an alias of OpenSSH's or an IPv4 address. None of it can look like an option.
SSH_PATTERN = r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,63}@)?[A-Za-z0-9][A-Za-z0-9.-]{0,252}(:[1-9][0-9]{0,4})?$"


class Adopt(BaseModel):
    """A domain of this machine's libvirt that somebody else made, and how to get into it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    domain: Annotated[
        str,
        Field(
            pattern=r"^[^/\x00-\x1f]{1,200}$",
            description="The domain's name. It has to run; nestctl never changes, starts, stops or deletes it.",
        ),
    ]
    ssh: Annotated[
        str,
        Field(
            pattern=SSH_PATTERN,
            description="How its machine is reached: [USER@]HOST[:PORT], as your own OpenSSH would, by its "
            "configuration, keys, agent and known hosts. USER is root, or one who may use sudo without a password. "
            "'up' lets the lab's key in for that account; 'down' takes it out again.",
        ),
    ]
    dns: Annotated[
        str,
        Field(
            pattern=r"^([0-9]{1,3}(\.[0-9]{1,3}){3})?$",
            description="The name server of the guests inside, an IPv4 address. When empty, they have none.",
        ),
    ] = ""
