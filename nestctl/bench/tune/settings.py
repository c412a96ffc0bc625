"""Settings to try, as data: what each changes, where that makes sense, why it might matter, and who says so."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from nestctl.model.samples import Frozen


class Of(StrEnum):
    """Whose setting it is: of a guest on the way to the measured one, or only of a machine that runs guests."""

    GUEST = "guest"
    HYPERVISOR = "hypervisor"


class Need(StrEnum):
    """What the machine that runs guests has to have: KVM for them, on a certain CPU, or huge pages that are free."""

    NOTHING = ""
    KVM = "kvm"
    SVM = "svm"
    VMX = "vmx"
    HUGE_PAGES = "huge-pages"


class File(Frozen):
    """A file of /sys and what is written into it; of a choice it shows the chosen word in brackets."""

    path: str = Field(pattern=r"^/sys/[\w./-]+$")
    value: str


class Module(Frozen):
    name: str = Field(pattern=r"^\w+$")
    parameter: str = Field(pattern=r"^\w+$")
    value: str

    @property
    def path(self) -> str:
        return f"/sys/module/{self.name}/parameters/{self.parameter}"


class Proof(Frozen):
    """Where a setting of a guest is seen, as a regular expression for a line; `{cpu}` is its first vCPU's CPU."""

    in_: Literal["qemu", "threads", "kernel", "cpu"] = Field(alias="in")
    like: str
    absent: bool = False


class Setting(Frozen):
    """One table of settings.toml, which says what the keys mean."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    title: str
    why: str
    source: str
    of: Of = Of.GUEST
    needs: Need = Need.NOTHING
    guest: Mapping[str, Any] = {}
    pins: bool = False
    file: File | None = None
    module: Module | None = None
    proof: Proof | None = None

    @property
    def is_of_machine(self) -> bool:
        """Tell whether it changes a machine that runs guests, not the definition of a guest."""
        return self.file is not None or self.module is not None

    @property
    def path(self) -> str:
        """The file where a setting of a machine can be read; empty for one of a guest's."""
        return self.file.path if self.file else self.module.path if self.module else ""

    @property
    def value(self) -> str:
        return self.file.value if self.file else self.module.value if self.module else ""

    @model_validator(mode="after")
    def _changes_one_thing_and_is_seen(self) -> Self:
        kinds = [bool(self.guest), self.pins, self.file is not None, self.module is not None]
        if kinds.count(True) != 1 or (self.proof is None) is not self.is_of_machine:
            raise ValueError("a setting changes one thing; one of a guest's has a proof, and a file is its own")
        return self


@cache
def read_settings() -> tuple[Setting, ...]:
    """Read the file beside this one. A wrong one is a bug: it comes with nestctl."""
    tables = tomllib.loads(Path(__file__).with_name("settings.toml").read_text(encoding="utf-8"))
    documents = ({"name": name, **table} for name, table in tables.items())
    return tuple(Setting.model_validate_json(json.dumps(document)) for document in documents)
