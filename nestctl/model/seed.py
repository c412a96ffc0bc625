"""What a lab file puts into a guest: accounts, files, packages, commands that run once.

Packages are for vendors' images, which have package sources: what a guest of the built image needs is in that image.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

# The validation context of a lab file: texts with '{{ }}' in them are looked at once they are filled.
TEMPLATES = {"has_templates": True}


def _matching(pattern: str, meaning: str) -> Any:
    """Accept texts of a pattern; `meaning` completes "it ..." about one that is not."""
    compiled = re.compile(pattern)

    def check(value: str, info: ValidationInfo) -> str:
        is_template = info.context == TEMPLATES and "{{" in value
        if not is_template and not compiled.fullmatch(value):
            raise ValueError(f"'{value[:60]}' {meaning}")
        return value

    return AfterValidator(check)


# Debian's useradd takes these; a longer one is no login name (utmp(5)).
UserName = Annotated[
    str, _matching(r"[a-z_][a-z0-9_-]{0,31}", "is no account's name: use lower-case letters, digits, dashes")
]
SshKey = Annotated[
    str, _matching(r"[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\x00-\x1f]*)?", "is no public key as authorized_keys has it")
]
# As long as fits a tar header's name, with no way out of the root directory.
FilePath = Annotated[
    str,
    _matching(r"(?=.{1,100}$)(/(?!\.{1,2}(/|$))[^/\x00-\x1f]+)+", "is no path from '/' of at most 100 characters"),
]
Mode = Annotated[str, _matching(r"0?[0-7]{3}", "is no mode in octal, such as '0644'")]
# Debian's and RPM's names, also with a version or an architecture; no option of a package manager.
Package = Annotated[
    str, _matching(r"[A-Za-z0-9][A-Za-z0-9+._:=~-]{0,199}", "is no package's name: use letters, digits, dashes, dots")
]
Command = Annotated[
    str, Field(min_length=1, max_length=65_536), _matching(r"[^\x00]+", "has a NUL character, which no shell takes")
]


class User(BaseModel):
    """An account in a guest."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[UserName, Field(description="The account's name; one that is there already is left as it is.")]
    ssh_keys: Annotated[
        tuple[SshKey, ...],
        Field(strict=False, max_length=50, description="Public keys that may log in, as in authorized_keys."),
    ] = ()


class File(BaseModel):
    """A file in a guest; it belongs to root."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    path: Annotated[FilePath, Field(description="Where it is, from '/'.")]
    content: Annotated[str, Field(max_length=1_048_576, description="What is in it, as text.")]
    mode: Annotated[Mode, Field(description="Who may do what with it, in octal and in quotes.")] = "0644"


class Seed(BaseModel):
    """What is put into a guest before it first boots, and run there once, in this order."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    files: Annotated[
        tuple[File, ...], Field(strict=False, max_length=200, description="Files, in place before the first boot.")
    ] = ()
    packages: Annotated[
        tuple[Package, ...],
        Field(
            strict=False,
            max_length=500,
            description="Packages of the guest's distribution, installed at the first boot. For imported images only: "
            "a guest of the built image has no package source.",
        ),
    ] = ()
    users: Annotated[
        tuple[User, ...], Field(strict=False, max_length=200, description="Accounts, each with a home and Bash.")
    ] = ()
    commands: Annotated[
        tuple[Command, ...],
        Field(
            strict=False,
            max_length=200,
            description="Shell commands that root runs once, at the end of the first boot. One that fails ends them, "
            "and 'up' says so.",
        ),
    ] = ()

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is put into the guest beyond what nestctl needs."""
        return not (self.files or self.packages or self.users or self.commands)
