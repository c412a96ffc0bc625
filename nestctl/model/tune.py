"""What 'bench tune' saw, raw: the lab as it is, and the lab with each setting, as versioned JSON."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from nestctl.model.samples import Ending, Frozen, Results

TUNE_SCHEMA: Final = "nestctl.bench-tune/1"


class Tried(Frozen):
    """A setting that was tried, or was to be: `failure` says why it has no results, or fewer than the others.

    `name` is SETTING@MACHINE; `was` and `becomes` are what was changed, in words. Both runs of a comparison are
    `nestctl.model.samples.Results` of one level, with a round for each boot.
    """

    name: str
    title: str
    why: str
    source: str
    was: str
    becomes: str
    failure: str = ""
    results: Results | None = None


class Refused(Frozen):
    """A setting that cannot be tried here, and the reason."""

    name: str
    title: str
    reason: str


class TuneResults(Frozen):
    """A whole run. `trouble` says what could not be put back; it is empty when everything is as it was."""

    schema_: Literal["nestctl.bench-tune/1"] = Field(default=TUNE_SCHEMA, alias="schema")
    nestctl_version: str
    created: str
    lab: str
    guest: str
    is_emulated: bool
    ending: Ending
    rounds: int = Field(ge=1)
    seed: int
    baseline: Results | None
    tried: tuple[Tried, ...]
    refused: tuple[Refused, ...]
    trouble: str = ""
