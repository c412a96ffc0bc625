"""nestctl init, schema, render, up, status, ssh, down."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

LabArgument = Annotated[
    str | None,
    typer.Argument(metavar="LAB", help="A lab file, or the name of a lab that exists.", show_default="./lab.yaml"),
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
            help="What to start from: single, deep, matrix, student-class or tenants. A roster is written beside it.",
        ),
    ] = Template.SINGLE,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write a commented lab file that works as it is."""
    from nestctl.adapters.files import write_atomically
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
        write_atomically(target, source.read_bytes())
    say(f"Wrote {' and '.join(repr(str(target)) for target in files)}. Bring it up with 'nestctl up'.")


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
    from nestctl.lab.preview import preview_lab, render_preview
    from nestctl.lab.store import find_lab

    documents = preview_lab(find_lab(lab), connect=connect)
    if json:
        print_json(render_preview(documents))
    else:
        print_result("\n".join(f"<!-- {it.where}: {it.kind} {it.name} -->\n{it.xml}" for it in documents))


def up(lab: LabArgument = None, connect: Connect = None, json: Json = False) -> None:
    """Bring a lab up: every guest at every level, verified from inside. What runs already is left as it is."""
    from nestctl.console import print_json, print_rich, say, step
    from nestctl.lab.converge import up as bring_up
    from nestctl.lab.report import render_plans, render_plans_table
    from nestctl.lab.store import find_lab

    plans = bring_up(find_lab(lab), connect=connect, step=step, say=say)
    if json:
        print_json(render_plans(plans))
    else:
        print_rich(render_plans_table(plans))


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


def ssh(
    node: Annotated[str, typer.Argument(metavar="GUEST", help="A guest of ./lab.yaml, or LAB/GUEST.")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="What to run there; a shell by default.")
    ] = None,
) -> None:
    """Log in to a guest at any level, or run a command there: nestctl ssh l2 -- uname -r.

    The exit code is the command's own. Several words reach it as they are; one word is a shell's text.
    """
    from nestctl.adapters.process import replace_process
    from nestctl.lab.ssh_config import ssh_command
    from nestctl.lab.store import find_node

    directory, name = find_node(node)
    words = command or []
    # With interspersed options off, the '--' that separates the command is handed on.
    replace_process(ssh_command(directory, name, words[1:] if words[:1] == ["--"] else words))


def down(lab: LabArgument = None, connect: Connect = None) -> None:
    """Remove everything 'up' made, innermost guests first, and nothing else."""
    from nestctl.console import say, step, warn
    from nestctl.lab.converge import down as take_down
    from nestctl.lab.store import find_lab_name

    name = find_lab_name(lab)
    if not take_down(name, connect=connect, step=step, warn=warn):
        say(f"There is nothing of the lab '{name}' to remove.")
