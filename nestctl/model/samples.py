"""What a benchmark run saw, raw: workloads, levels, and the calls that measured them, as versioned JSON.

Nothing here is computed: medians and ratios are made from it by `nestctl.bench.summary`.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from nestctl.errors import FailedError, UsageError

SCHEMA: Final = "nestctl.bench/2"  # its history is in docs/reference/bench-schema.md
READ_TOO = ("nestctl.bench/1",)  # what came later has a default, so an old file is read as it stands

# Whatever is divided or multiplied stays a number that can be written down: no count and no clock here needs more than
# 63 bits, and no unit is further from a nanosecond than that.
MOST = 2**63 - 1
Stamp = Annotated[int, Field(ge=-MOST, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]


class Frozen(BaseModel):
    """Strict: an unknown key is an error, and so is a number given as text, infinity or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Better(StrEnum):
    """Which direction of a workload's unit is cheaper."""

    LOWER = "lower"
    HIGHER = "higher"


class Family(StrEnum):
    """What runs: a micro-guest without operating system, one level below; code of ours or a known program; a boot."""

    MICRO_GUEST = "micro-guest"
    SYSTEM = "system"
    PROGRAM = "program"
    BOOT = "boot"


class Ending(StrEnum):
    """Why a run ended: when it was done, or before, with what had been measured until then."""

    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    DEADLINE = "deadline"
    FAILED = "failed"


class Sample(Frozen):
    """Some operations and the time they took, by the raw clock of the level that ran them.

    `begin_ns` and `end_ns` are stamps of that clock; a sample that was not stamped (a boot) has none. `exits` are those
    that the level's own KVM counted. `waited_ns` is how long the process that measured was ready and had no CPU
    (Documentation/scheduler/sched-stats.rst), `stolen_ns` what all CPUs of the level were not given by the hypervisor
    above. A sample that cannot be right is kept and has the reason in `void`.
    """

    operations: Count = Field(gt=0)
    elapsed_ns: Count = Field(gt=0)
    begin_ns: Stamp | None = None
    end_ns: Stamp | None = None
    exits: Count | None = None
    waited_ns: Count | None = None
    stolen_ns: Count | None = None
    void: str = ""


class Workload(Frozen):
    """How to read the samples of a workload: where lower is better as time per operation, else as operations per time.

    `scale` turns nanoseconds per operation, or operations per nanosecond, into `unit`.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    unit: str
    better: Better
    scale: float = Field(ge=1e-18, le=1e18)
    about: str = ""
    family: Family = Family.SYSTEM

    def value(self, sample: Sample) -> float:
        """Convert a sample to the workload's unit."""
        if self.better is Better.LOWER:
            return sample.elapsed_ns / sample.operations * self.scale
        return sample.operations / sample.elapsed_ns * self.scale


class Bracket(Frozen):
    """What was seen from outside while the samples of one workload were taken, between two messages.

    `host_*_ns` is L0's raw clock: after the level said that it would begin, and when it said that it had ended. `exits`
    are those of all vCPUs of the level, as KVM of the level above counted them; none where it counts none.
    """

    host_begin_ns: Stamp
    host_end_ns: Stamp
    exits: Count | None = None


class Outcome(Frozen):
    """What came of one workload in one call: samples, or the reason why there are none."""

    workload: str
    samples: tuple[Sample, ...] = ()
    not_measured: str = ""
    how: str = ""
    remark: str = ""
    bracket: Bracket | None = None

    @model_validator(mode="after")
    def _is_measured_or_not(self) -> Self:
        if bool(self.samples) == bool(self.not_measured):
            raise ValueError("an outcome has either samples or the reason why there are none")
        return self


class Fingerprint(Frozen):
    """What the agent's `fingerprint` prints (nestctl/agent/fingerprint.py)."""

    schema_: Literal["nestctl.fingerprint/1"] = Field(alias="schema")
    environment: dict[str, str]


class CountedExits(Frozen):
    """What the agent's `vm_exits` prints (nestctl/agent/vm_exits.py): a count, or why there is none."""

    schema_: Literal["nestctl.vm_exits/1"] = Field(alias="schema")
    exits: Count | None
    reason: str


class Disturbance(Frozen):
    """What the agent's `disturbance` prints (nestctl/agent/disturbance.py)."""

    schema_: Literal["nestctl.disturbance/1"] = Field(alias="schema")
    stolen_ns: Count | None


class Measurement(Frozen):
    """What the agent's `measure` prints (nestctl/agent/measure.py)."""

    schema_: Literal["nestctl.measure/1"] = Field(alias="schema")
    begin_ns: Stamp
    end_ns: Stamp
    paused_ns: Count = 0
    outcomes: tuple[Outcome, ...]


class Call(Frozen):
    """One visit to a level. `host_*_ns` is L0's raw clock around it, `level_*_ns` the level's own raw clock inside.

    A call that failed has the reason, and no outcomes. A control is a second visit of its round to one level, and its
    figures are compared with those of the first: two series of the same thing, measured as two levels are. `boot`
    counts the boots of the guests within the run. `paused_ns` is how long the level waited for counters to be read.
    """

    level: str
    round: Count = Field(ge=1)
    boot: Count = Field(default=1, ge=1)
    is_control: bool = False
    host_begin_ns: Stamp
    host_end_ns: Stamp
    level_begin_ns: Stamp | None = None
    level_end_ns: Stamp | None = None
    paused_ns: Count = 0
    outcomes: tuple[Outcome, ...] = ()
    failure: str = ""


class LevelRecord(Frozen):
    """A level as it was: L0 has depth 0, and `above` names the level whose hypervisor runs this one.

    `outcomes` are those the level did not measure itself, such as its boot; `environment` is its fingerprint.
    `setup_ns` is what starting the agent there and asking for that took, by L0's clock.
    """

    name: str
    depth: Count
    above: str | None
    is_emulated: bool
    accelerator: str
    environment: dict[str, str] = Field(default_factory=dict)
    setup_ns: Count | None = None
    outcomes: tuple[Outcome, ...] = ()


class Settings(Frozen):
    """How to measure: visits per level, samples per visit and workload, the time one sample should take.

    Once `fewest_rounds` have been done, no round is begun that would not end within `budget_s`, and none when the
    interval of every ratio has a half width of at most `until` (0.03 is 3 %). The order within a round is drawn with
    `seed`. An empty list of levels or of workloads means all. After `fresh` rounds the guests are booted anew, if it is
    given.
    """

    rounds: int = Field(default=5, ge=1, le=1000)
    fewest_rounds: int = Field(default=5, ge=1, le=1000)
    until: float | None = Field(default=None, gt=0, le=10)
    has_control: bool = False
    samples: int = Field(default=3, ge=1, le=1000)
    target_ms: int = Field(default=100, ge=1, le=60_000)
    budget_s: float | None = Field(default=None, gt=0, le=1e9)
    fresh: int | None = Field(default=None, ge=1, le=1000)
    seed: Stamp = 0
    levels: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()


class Spent(Frozen):
    """How long a run took by L0's monotonic clock, from the command to the last sample, and what of that was no visit.

    `opening_ns` is reaching, checking and pinning the levels, `boots_ns` booting the guests anew.
    """

    whole_ns: Count
    opening_ns: Count
    boots_ns: Count = 0


class Results(Frozen):
    """A whole run. `created` is UTC in ISO 8601; `left_out` has sentences about what could have been measured.

    `spent` is None in files of an older nestctl.
    """

    schema_: Literal["nestctl.bench/2"] = Field(default=SCHEMA, alias="schema")
    nestctl_version: str
    created: str
    title: str
    ending: Ending
    settings: Settings
    workloads: tuple[Workload, ...]
    levels: tuple[LevelRecord, ...]
    calls: tuple[Call, ...]
    left_out: tuple[str, ...] = ()
    spent: Spent | None = None

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        levels = {level.name for level in self.levels}
        workloads = {workload.name for workload in self.workloads}
        if len(levels) != len(self.levels) or len(workloads) != len(self.workloads):
            raise ValueError("every level and every workload has a name of its own")
        used_levels = {call.level for call in self.calls} | {level.above for level in self.levels if level.above}
        holders: tuple[Call | LevelRecord, ...] = (*self.calls, *self.levels)
        used_workloads = {outcome.workload for holder in holders for outcome in holder.outcomes}
        unknown = (used_levels - levels) | (used_workloads - workloads)
        if unknown:
            raise ValueError(f"it speaks of {', '.join(sorted(unknown))} and does not say what that is")
        return self


def parse_measurement(document: object, *, where: str) -> Measurement:
    """Check what the agent said at the machine `where`. Raises `FailedError`."""
    return _parse_answer(Measurement, document, where)


def parse_counted_exits(document: object, *, where: str) -> CountedExits:
    """Check likewise what the agent said of a guest's exits. Raises `FailedError`."""
    return _parse_answer(CountedExits, document, where)


def parse_stolen(document: object, *, where: str) -> int | None:
    """Check likewise what the agent said of stolen time, in nanoseconds. Raises `FailedError`."""
    return _parse_answer(Disturbance, document, where).stolen_ns


def parse_fingerprint(document: object, *, where: str) -> dict[str, str]:
    """Check likewise what the agent said of the machine, and return it. Raises `FailedError`."""
    return _parse_answer(Fingerprint, document, where).environment


_Answer = TypeVar("_Answer", bound=Frozen)


def _parse_answer(kind: type[_Answer], document: object, where: str) -> _Answer:
    try:
        return kind.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise FailedError(f"The agent on {where} answered with something else: {_first_mistake(error)}.") from error


def render_results(results: Results) -> str:
    """Write what `parse_results` reads."""
    return results.model_dump_json(indent=1, by_alias=True) + "\n"


def parse_results(text: str | bytes, *, source: str) -> Results:
    """Read what `render_results` wrote. Raises `UsageError` that names `source` and what is wrong with it."""
    try:
        document = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise UsageError(f"'{source}' is no JSON: {error}.") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema in READ_TOO:
        document["schema"] = SCHEMA
    elif schema != SCHEMA:
        raise UsageError(
            f"'{source}' has the schema '{schema}', and this nestctl reads '{SCHEMA}' and older."
            if schema
            else f"'{source}' is no result of 'nestctl bench': it has no schema.",
            hint="Use the version of nestctl that wrote it, or measure again.",
        )
    try:
        return Results.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise UsageError(f"'{source}' does not follow '{SCHEMA}': {_first_mistake(error)}.") from error


def _first_mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]) + ": " + first["msg"]
