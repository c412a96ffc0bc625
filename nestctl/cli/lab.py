"""nestctl init, adopt, schema, render, plan, up, status, list, audit, ssh, down."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestctl.cli.complete import complete_guest, complete_lab

if TYPE_CHECKING:
    from nestctl.model.lab import Lab

LabArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="LAB",
        help="A lab file, or the name of a lab that exists.",
        show_default="./lab.yaml",
        autocompletion=complete_lab,
    ),
]
Connect = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="This machine's libvirt: qemu:///system, qemu:///session or qemu:///embed?root=DIR.",
        show_default="$LIBVIRT_DEFAULT_URI, or what works here",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Template(StrEnum):
    """The labs in templates/labs."""

    SINGLE = "single"
    DEEP = "deep"
    MATRIX = "matrix"
    STUDENT_CLASS = "student-class"
    TENANTS = "tenants"


class Schema(StrEnum):
    """What there is a JSON Schema of."""

    LAB = "lab"


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("lab.yaml"),
    template: Annotated[
        Template,
        typer.Option(
            metavar="NAME",
            help="What to start from: single, deep, matrix, student-class or tenants; some have a roster beside them.",
        ),
    ] = Template.SINGLE,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write a commented lab file that works as it is."""
    from nestctl.adapters.files import write_named
    from nestctl.console import say
    from nestctl.errors import UsageError
    from nestctl.paths import resource

    files = {path: resource("templates", f"labs/{template.value}.yaml")}
    roster = files[path].with_suffix(".csv")
    if roster.exists():
        files[path.with_name(roster.name)] = roster
    for target in files:
        if target.exists() and not force:
            raise UsageError(f"'{target}' is there already.", hint="Give another path, or '--force' to replace it.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no directory '{path.parent}'.")
    for target, source in files.items():
        write_named(target, source.read_bytes())
    say(f"Wrote {' and '.join(repr(str(target)) for target in files)}. Bring it up with 'nestctl up'.")


def adopt(
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="A domain of this machine's libvirt that runs.")],
    ssh: Annotated[
        str,
        typer.Argument(
            metavar="[USER@]HOST[:PORT]", help="How your own OpenSSH gets into it: as root, or one who may use sudo."
        ),
    ],
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The lab file to write.")] = Path("lab.yaml"),
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="The lab's name.")] = "adopted",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    connect: Connect = None,
) -> None:
    """Write a lab file with a domain that is there already as its L1: looked at and logged in to, and not changed.

    'nestctl up' makes the guests inside it, 'nestctl down' removes them. The domain stays as it is.
    """
    from nestctl.adapters.files import write_named
    from nestctl.console import say
    from nestctl.errors import UsageError
    from nestctl.lab.adopt import look_at_machine, render_lab_file
    from nestctl.lab.parse import parse_lab

    if path.exists() and not force:
        raise UsageError(f"'{path}' is there already.", hint="Give another path, or '--force' to replace it.")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"There is no directory '{path.parent}'.")
    text = render_lab_file(name, domain, ssh)
    (guest,) = parse_lab(text, "the arguments").guests.values()
    if guest.adopt is None:
        raise AssertionError("it was rendered with 'adopt'")
    found = look_at_machine(guest.adopt, connect=connect)
    write_named(path, text.encode())
    size = f"{found.cpus} CPU{'s' if found.cpus > 1 else ''}, {found.memory_mib} MiB"
    say(f"'{domain}' ({size}) can be adopted. Wrote '{path}'. Bring the guests inside up with 'nestctl up {path}'.")


def schema(
    name: Annotated[Schema, typer.Argument(metavar="NAME", help="What to describe: 'lab'.")] = Schema.LAB,
) -> None:
    """Print the JSON Schema of a lab file, for editors and other programs."""
    from nestctl.console import print_json
    from nestctl.model.declared import DeclaredLab

    schemas = {Schema.LAB: DeclaredLab}
    print_json(schemas[name].model_json_schema())


def render(lab: LabArgument = None, connect: Connect = None, json: Json = False) -> None:
    """Print exactly the XML that 'up' defines at every level. Touches nothing."""
    from nestctl.console import print_json, print_result
    from nestctl.lab.images import check_images
    from nestctl.lab.preview import preview_lab, render_preview
    from nestctl.lab.store import find_lab

    documents = preview_lab(find_lab(lab, check_images), connect=connect)
    if json:
        print_json(render_preview(documents))
    else:
        print_result("\n".join(f"<!-- {it.where}: {it.kind} {it.name} -->\n{it.xml}" for it in documents))


def plan(lab: LabArgument = None, connect: Connect = None, json: Json = False) -> None:
    """Show what 'up' would do at every level, and why, and whether it fits this machine. Touches nothing.

    Exit code 1 when there is something to do, and 3 when it does not fit: 'up' would refuse it.
    """
    from nestctl.lab.images import check_images
    from nestctl.lab.store import find_lab

    _show_plan(find_lab(lab, check_images), connect, as_json=json)


def up(
    lab: LabArgument = None,
    connect: Connect = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, max=256, metavar="NUMBER", help="Guests that boot at once.", show_default="CPUs + 1"
        ),
    ] = None,
    recreate: Annotated[
        bool, typer.Option("--recreate", help="Restart guests, or make them anew, where their settings differ.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove guests that are not in the lab file any more.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done, as 'plan' does.")] = False,
    json: Json = False,
) -> None:
    """Bring a lab up: every guest at every level, verified from inside. What is as it should be is left as it is."""
    from nestctl.console import print_json, print_rich, say, step
    from nestctl.lab.bring_up import Wishes
    from nestctl.lab.converge import up as bring_up
    from nestctl.lab.images import check_images
    from nestctl.lab.parallel import DEFAULT_JOBS
    from nestctl.lab.report import render_plans, render_plans_table
    from nestctl.lab.store import find_lab

    found = find_lab(lab, check_images)
    if dry_run:
        _show_plan(found, connect, as_json=json)
        return
    wishes = Wishes(jobs=jobs or DEFAULT_JOBS, may_recreate=recreate, may_prune=prune)
    plans = bring_up(found, connect=connect, step=step, say=say, wishes=wishes)
    if json:
        print_json(render_plans(plans))
    else:
        print_rich(render_plans_table(plans))


def _show_plan(lab: Lab, connect: str | None, *, as_json: bool) -> None:
    from nestctl.console import print_json, print_result, print_rich, warn
    from nestctl.errors import ExitCode
    from nestctl.lab.admission import describe_admission
    from nestctl.lab.diff import render_changes, render_changes_tree
    from nestctl.lab.preview import preview_changes
    from nestctl.lab.risk import describe_risk

    preview = preview_changes(lab, connect=connect)
    if as_json:
        print_json(render_changes(lab.name, preview))
    else:
        print_rich(render_changes_tree(lab.name, preview))
        if preview.admission:
            print_result(describe_admission(preview.admission))
    for risk in preview.risks:
        warn(describe_risk(risk))
    if preview.admission:
        for warning in preview.admission.warnings:
            warn(warning)
        if preview.admission.refusals:
            raise preview.admission.refusals[0]
    if not preview.is_settled:
        raise typer.Exit(ExitCode.NO)


def status(lab: LabArgument = None, connect: Connect = None, json: Json = False) -> None:
    """Show a lab's guests as every level's libvirt has them. Exit code 1 when one of them does not run."""
    from nestctl.console import print_json, print_rich
    from nestctl.errors import ExitCode
    from nestctl.lab.report import render_status, render_status_tree
    from nestctl.lab.status import is_up, read_status
    from nestctl.lab.store import find_lab

    found = find_lab(lab)
    statuses = read_status(found, connect=connect)
    if json:
        print_json(render_status(found.name, statuses))
    else:
        print_rich(render_status_tree(found.name, statuses))
    if not is_up(statuses):
        raise typer.Exit(ExitCode.NO)


def list_labs(connect: Connect = None, json: Json = False) -> None:
    """List the labs that are on this machine: how many of their guests run, and how old they are."""
    from nestctl.console import print_json, print_rich, say
    from nestctl.lab.listing import summarize_labs
    from nestctl.lab.report import render_labs, render_labs_table

    labs = summarize_labs(connect=connect)
    if json:
        print_json(render_labs(labs))
    elif labs:
        print_rich(render_labs_table(labs))
    else:
        say("No lab is there. 'nestctl init' writes a lab file, 'nestctl up' brings it up.")


def audit(
    lab: Annotated[
        str | None, typer.Argument(metavar="LAB", help="A lab file or a lab's name.", show_default="all labs")
    ] = None,
    connect: Connect = None,
    json: Json = False,
) -> None:
    """Name everything of labs that is here: domains, networks, disks, keys, processes. Exit code 1 if there is any."""
    from nestctl.console import print_json, print_result, say
    from nestctl.errors import ExitCode
    from nestctl.lab.audit import audit as find_all
    from nestctl.lab.report import render_traces
    from nestctl.lab.store import find_any_name

    traces = find_all(None if lab is None else find_any_name(lab), connect=connect)
    if json:
        print_json(render_traces(traces))
    elif traces:
        print_result("\n".join(f"{it.lab}: {it.kind} {it.name}" for it in traces))
    else:
        say(f"Nothing of {f'the lab {lab!r}' if lab else 'any lab'} is on this machine.")
    if traces:
        raise typer.Exit(ExitCode.NO)


def ssh(
    node: Annotated[
        str,
        typer.Argument(metavar="GUEST", help="A guest of ./lab.yaml, or LAB/GUEST.", autocompletion=complete_guest),
    ],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="What to run there; a shell by default.")
    ] = None,
) -> None:
    """Log in to a guest at any level, or run a command there: nestctl ssh l2 -- uname -r.

    The exit code is the command's own. Several words reach it as they are; one word is a shell's text.
    """
    from nestctl.adapters.process import replace_process
    from nestctl.lab.nodes import find_node
    from nestctl.lab.ssh_config import ssh_command

    found = find_node(node)
    words = command or []
    # With interspersed options off, the '--' that separates the command is handed on.
    replace_process(ssh_command(found.directory, found.name, words[1:] if words[:1] == ["--"] else words))


def down(lab: LabArgument = None, connect: Connect = None) -> None:
    """Remove everything 'up' made, innermost guests first, and nothing else."""
    from nestctl.console import say, step, warn
    from nestctl.lab.remove import down as take_down
    from nestctl.lab.store import find_lab_name

    name = find_lab_name(lab)
    if not take_down(name, connect=connect, step=step, warn=warn):
        say(f"There is nothing of the lab '{name}' to remove.")
