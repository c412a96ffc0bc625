"""`nestctl check`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nestctl.check.report import Report
    from nestctl.errors import ExitCode
    from nestctl.targets.target import Target

DEFAULT_JOBS = 16
DEFAULT_TIMEOUT_S = 60.0

LEFT_OUT = """\
  probe.json: the answers of CPUID, of /dev/kvm and of the system
  expected.json: the verdicts
Left out: host names, serial numbers, UUIDs, addresses, people's names, command lines; of the boot line, modprobe.d and
the kernel's log all that is not about virtualization. Look at it before you send it: tar -tvzf FILE.
"""


@dataclass(frozen=True, kw_only=True)
class _Output:
    """What becomes of a report, and what counts in it."""

    as_json: bool
    strict: bool
    untrusted: bool
    record: Path | None


# The options of the command.
Targets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TARGET",
        help="ssh://[USER@]HOST[:PORT], LAB/GUEST or localhost. Several are checked at once.",
        show_default="this machine",
    ),
]
Inventory = Annotated[
    str | None,
    typer.Option("--inventory", "-i", metavar="FILE", help="Check the hosts of an Ansible inventory (any form)."),
]
Limit = Annotated[
    str, typer.Option("--limit", "-l", metavar="PATTERN", help="Only these hosts and groups of the inventory.")
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, max=1000, help="Targets at once.", show_default=str(DEFAULT_JOBS)),
]
TimeoutS = Annotated[
    float | None,
    typer.Option(
        "--timeout", metavar="SECONDS", min=0.1, help="Time for each target.", show_default=f"{DEFAULT_TIMEOUT_S:g}"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the findings and the raw facts as JSON.")]
Passive = Annotated[
    bool, typer.Option("--passive", help="Only read files, run no code: what is not proved is unknown.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Count warnings: a yes with a warning behind it ends with exit code 1.")
]
Untrusted = Annotated[bool, typer.Option("--untrusted", help="Guests are of strangers: not safe for tenants is a no.")]
Explain = Annotated[
    str | None,
    typer.Option("--explain", metavar="FINDING", help="Say what a finding means; 'list' prints all their names."),
]
Root = Annotated[
    Path | None,
    typer.Option("--root", metavar="PATH", help="Judge a recorded machine: a directory or a .tar.gz of one."),
]
Record = Annotated[
    Path | None,
    typer.Option("--record", metavar="FILE", help="Write what was read to a new .tar.gz, for '--root'."),
]


def check(
    targets: Targets = None,
    inventory: Inventory = None,
    limit: Limit = "",
    jobs: Jobs = None,
    timeout_s: TimeoutS = None,
    as_json: AsJson = False,
    passive: Passive = False,
    strict: Strict = False,
    untrusted: Untrusted = False,
    explain: Explain = None,
    root: Root = None,
    record: Record = None,
) -> None:
    """Say whether guests of a machine can nest, and prove it by running code there.

    Exit code 0: guests can nest with hardware help. 1: they cannot (labs may still be emulated). 3: not found out.
    With '--strict', 1 also where they can and something was warned about. With '--untrusted', 0 only where it is safe
    for tenants too, and 3 where that is not known.
    Of several targets the worst counts: 3 before 1 before 0; those that cannot be reached count as 3.
    """
    from nestctl.errors import UsageError

    if explain is not None:
        others = {
            "a target": targets,
            "--inventory": inventory,
            "--limit": limit,
            "--jobs": jobs,
            "--timeout": timeout_s,
            "--json": as_json,
            "--passive": passive,
            "--strict": strict,
            "--untrusted": untrusted,
            "--root": root,
            "--record": record,
        }
        raise typer.Exit(_explain(explain, [name for name, value in others.items() if value]))
    _expect_sense(has_targets=bool(targets) or inventory is not None, passive=passive, root=root, record=record)
    output = _Output(as_json=as_json, strict=strict, untrusted=untrusted, record=record)
    if not targets and inventory is None:
        if jobs is not None or timeout_s is not None or limit:
            raise UsageError("'--jobs', '--timeout' and '--limit' are about targets, and none is named.")
        from nestctl.check import check_recording, check_this_machine

        report = check_recording(root) if root else check_this_machine(passive=passive, record=record is not None)
        raise typer.Exit(_print_report(report, output))
    if limit and inventory is None:
        raise UsageError("'--limit' is about an inventory, and none is given.")
    found = _find_targets(targets or (), inventory, limit)
    options = (jobs or DEFAULT_JOBS, timeout_s or DEFAULT_TIMEOUT_S, passive)
    if len(found) == 1 and inventory is None:
        raise typer.Exit(_check_one(found[0], *options, output))
    if record:
        raise UsageError(f"'--record' is about one machine, and there are {len(found)} targets.")
    raise typer.Exit(_check_many(found, *options, output))


def _explain(name: str, others: list[str]) -> int:
    from nestctl import console
    from nestctl.check.explain import explain
    from nestctl.errors import UsageError

    if others:
        said = " and ".join(f"'{it}'" if it.startswith("-") else it for it in others)
        raise UsageError(f"'--explain' says what a finding means and checks nothing: leave {said} out.")

    console.print_result(explain(name).rstrip())
    return 0


def _expect_sense(*, has_targets: bool, passive: bool, root: Path | None, record: Path | None) -> None:
    from nestctl.errors import UsageError

    if root and record:
        raise UsageError("'--root' and '--record' exclude each other: what is judged there is recorded already.")
    if root and passive:
        raise UsageError("'--passive' says how to look at a machine, and what '--root' names is only read anyway.")
    if root and has_targets:
        raise UsageError("'--root' names the machine that is judged, and so does a target or an inventory.")


def _find_targets(names: list[str] | tuple[()], inventory: str | None, limit: str) -> tuple[Target, ...]:
    from nestctl.targets.target import parse_target

    found = [parse_target(name) for name in names]
    if inventory is not None:
        from nestctl.targets.inventory import read_inventory

        found += read_inventory(inventory, limit=limit)
    return tuple({target.name: target for target in found}.values())


def _check_one(target: Target, jobs: int, timeout_s: float, passive: bool, output: _Output) -> ExitCode:
    from nestctl.targets.check import check_targets

    record = output.record is not None
    (outcome,) = check_targets((target,), jobs=jobs, timeout_s=timeout_s, passive=passive, record=record)
    if outcome.report is None:
        raise outcome.error or AssertionError
    return _print_report(outcome.report, output)


def _check_many(targets: tuple[Target, ...], jobs: int, timeout_s: float, passive: bool, output: _Output) -> ExitCode:
    from nestctl import console
    from nestctl.targets.check import check_targets, judge_for_strangers, worst_of
    from nestctl.targets.report import make_row, render_count, render_documents, render_rows

    checked = check_targets(targets, jobs=jobs, timeout_s=timeout_s, passive=passive)
    judged = map(judge_for_strangers, checked) if output.untrusted else checked
    outcomes = (replace(outcome, is_strict=output.strict) for outcome in judged)
    if output.as_json:
        exit_codes: list[ExitCode] = []
        for piece in render_documents(outcomes, exit_codes):
            console.print_piece(piece)
        return worst_of(exit_codes)
    with console.step(f"Checking {len(targets)} targets, at most {jobs} at once"):
        rows = [make_row(outcome) for outcome in outcomes]
    console.print_rich(render_rows(rows))
    console.print_result("\n" + render_count(rows))
    return worst_of([row.exit_code for row in rows])


def _print_report(report: Report, output: _Output) -> ExitCode:
    from nestctl import console
    from nestctl.check.report import SUMMARY_INDENT, count_safety, render_json, render_summary
    from nestctl.check.text import render_findings

    if output.record:
        _record(report, output.record)
    if output.untrusted:
        report = count_safety(report)
    if output.as_json:
        console.print_json(render_json(report))
    else:
        console.print_hanging(render_summary(report.assessment) + "\n", indent=SUMMARY_INDENT)
        width, is_coloured = console.result_width(), console.is_coloured()
        console.print_result(render_findings(report.assessment, width=width, is_coloured=is_coloured))
    return report.assessment.exit_code(is_strict=output.strict)


def _record(report: Report, path: Path) -> None:
    from nestctl import console
    from nestctl.check.recording import describe_contents, write_recording

    names = write_recording(path, report.collected, report.assessment)
    console.say(f"'{path}' holds what the check has read:\n{describe_contents(names)}")
    console.say(LEFT_OUT)
