"""Typed fakes: a machine whose agent answers with known numbers, and results made of known samples."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from nestctl.adapters.shell import Completed, TalkingShell
from nestctl.bench.workloads import WORKLOADS
from nestctl.deadline import Deadline
from nestctl.model.samples import Call, Ending, LevelRecord, Outcome, Results, Sample, Settings, Workload

SECOND_NS = 1_000_000_000


@dataclass
class FakeShell:
    """Answers the agent's command line with one sample per workload asked for, or does what `before` does."""

    name: str
    ns_per_operation: Iterable[int]
    before: Callable[[], None] = lambda: None
    not_measured: str = ""
    systemctl: str = "12000000"
    commands: list[str] = field(default_factory=list)
    conversations: int = 0
    pauses: bool = False
    paused_ns: int = 0
    exits: int = 1_000_000
    no_exits: str = ""

    def __post_init__(self) -> None:
        self._costs = iter(self.ns_per_operation)
        self._clock_ns = 0

    @property
    def where(self) -> str:
        return self.name

    def run(self, command: Sequence[str], *, deadline: Deadline, stdin: bytes = b"") -> Completed:
        self.commands.append(shlex.join(command))
        if command[0] == "systemctl":
            return self._answer(command, self.systemctl)
        self.before()
        deadline.check()
        names = [word.removeprefix("--workload=") for word in command if word.startswith("--workload=")]
        begin_ns, cost = self._clock_ns, next(self._costs)
        self._clock_ns += SECOND_NS
        document = {
            "schema": "nestctl.measure/1",
            "begin_ns": begin_ns,
            "end_ns": self._clock_ns,
            "paused_ns": self.paused_ns if any(word.startswith("--pause=") for word in command) else 0,
            "outcomes": [self._outcome(name, cost, begin_ns) for name in names],
        }
        return self._answer(command, json.dumps(document))

    @contextmanager
    def converse(self, command: Sequence[str]) -> Iterator[FakeConversation]:
        self.conversations += 1
        yield FakeConversation(self)

    def _outcome(self, name: str, cost: int, begin_ns: int) -> dict[str, object]:
        if self.not_measured:
            return {"workload": name, "not_measured": self.not_measured}
        sample = {"operations": 1000, "elapsed_ns": cost * 1000, "begin_ns": begin_ns, "end_ns": begin_ns + cost * 1000}
        return {"workload": name, "samples": [sample], "how": "made up"}

    def _answer(self, command: Sequence[str], text: str) -> Completed:
        return Completed(command=tuple(command), where=self.name, exit_code=0, stdout=text.encode(), stderr=b"")


def _pause(workload: str, at: str) -> bytes:
    return json.dumps({"schema": "nestctl.pause/1", "workload": workload, "at": at}).encode() + b"\n"


@dataclass
class FakeConversation:
    """An agent that stays on a machine: each question is a command there."""

    shell: FakeShell
    _answers: list[bytes] = field(default_factory=list)

    def ask(self, text: bytes, *, deadline: Deadline) -> bytes:
        words = json.loads(text.splitlines()[-1])
        if words[0] == "vm_exits":
            self.shell.exits += 500
            answer = {"schema": "nestctl.vm_exits/1", "exits": self.shell.exits, "reason": self.shell.no_exits}
            return json.dumps({**answer, **({"exits": None} if self.shell.no_exits else {})}).encode() + b"\n"
        if words == ["disturbance"]:
            return b'{"schema": "nestctl.disturbance/1", "stolen_ns": 20000000}\n'
        if words[0] == "fingerprint":
            environment = {"kernel": "6.1.0-fake"}
            return json.dumps({"schema": "nestctl.fingerprint/1", "environment": environment}).encode() + b"\n"
        if self.shell.pauses and words[0] == "measure":
            names = [word.removeprefix("--pause=") for word in words if word.startswith("--pause=")]
            self._answers = [_pause(name, at) for name in names for at in ("begin", "end")]
            self._answers.append(self.shell.run(words, deadline=deadline).stdout)
            return self._answers.pop(0)
        if words == ["go"]:
            return self._answers.pop(0)
        return self.shell.run(words, deadline=deadline).stdout

    def end(self, *, deadline: Deadline) -> Completed:
        raise AssertionError(f"it always answers, and so was not to be ended by {deadline.purpose}")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A `nestctl.bench.run.Level`."""

    name: str
    shell: TalkingShell
    depth: int = 0
    above: str | None = None
    is_emulated: bool = False
    accelerator: str = ""
    boot_s: tuple[float, ...] = ()
    domain: str = ""


def level(shell: FakeShell, *, above: str | None = None, depth: int = 0) -> Machine:
    return Machine(name=shell.name, shell=shell, above=above, depth=depth)


def record(name: str, above: str | None = None, *, depth: int = 0, is_emulated: bool = False) -> LevelRecord:
    return LevelRecord(name=name, depth=depth, above=above, is_emulated=is_emulated, accelerator="kvm")


def call(level: str, number: int, workload: str, elapsed_ns: int, *, operations: int = 1000) -> Call:
    """One call that took a second, in which both clocks agree."""
    at_ns = number * 10 * SECOND_NS
    sample = Sample(operations=operations, elapsed_ns=elapsed_ns, begin_ns=at_ns, end_ns=at_ns + elapsed_ns)
    return Call(
        level=level,
        round=number,
        host_begin_ns=at_ns,
        host_end_ns=at_ns + SECOND_NS,
        level_begin_ns=at_ns,
        level_end_ns=at_ns + SECOND_NS,
        outcomes=(Outcome(workload=workload, samples=(sample,), how="made up"),),
    )


def results(
    levels: Sequence[LevelRecord],
    calls: Sequence[Call],
    *,
    workloads: Sequence[Workload] = WORKLOADS,
    ending: Ending = Ending.COMPLETE,
    created: str = "2025-01-02T03:04:05+00:00",
) -> Results:
    return Results(
        nestctl_version="0.0.0",
        created=created,
        title="demo",
        ending=ending,
        settings=Settings(),
        workloads=tuple(workloads),
        levels=tuple(levels),
        calls=tuple(calls),
    )
