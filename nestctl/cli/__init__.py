"""The command line: parse options, call one use case, hand the result to the console."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nestctl import __version__
from nestctl.cli.bench import app as bench_app
from nestctl.cli.check import check
from nestctl.cli.clients import bundle, inventory, ssh_config
from nestctl.cli.expire import expire, extend
from nestctl.cli.image import app as image_app
from nestctl.cli.lab import adopt, audit, down, init, list_labs, plan, render, schema, ssh, status, up
from nestctl.cli.nested import app as nested_app
from nestctl.cli.quickstart import quickstart
from nestctl.cli.reach import console, cp, exec_, logs
from nestctl.cli.run import reset, run
from nestctl.cli.watch import watch
from nestctl.errors import ExitCode, NestctlError, UsageError

_EPILOG = """
\b
Examples:
  nestctl check                            can guests run guests here, and how fast?
  nestctl init && nestctl up               a guest inside a guest
  nestctl ssh l2 -- systemd-detect-virt    a command, two levels down
  nestctl bench && nestctl down            measure every level, leave nothing

\b
Exit codes:
  0 yes, done             1 no                          2 usage, wrong file
  3 not found out, something is missing                 4 a program, guest or hypervisor failed
  5 a deadline passed     130 interrupted               70 a bug
"""


class _Boundary(TyperGroup):
    """Turns our errors into a sentence and an exit code; Typer does that for wrong options."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands in groups. Typer does so with Rich, which takes longer to load than all of ours."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            groups.setdefault(command.rich_help_panel, []).append((name, command.get_short_help_str(limit=200)))
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:
        from nestctl.console import say, show_error

        try:
            return super().invoke(ctx)
        except NestctlError as error:
            show_error(error)
            logging.getLogger(__name__).debug("raised here:", exc_info=True)
            raise typer.Exit(error.exit_code) from error
        except OSError as error:
            from nestctl.cli.refused import explain_refusal

            if not (refusal := explain_refusal(error)):
                raise
            show_error(refusal)
            raise typer.Exit(refusal.exit_code) from error
        except KeyboardInterrupt:
            say("nestctl: interrupted. The same command goes on from here; 'nestctl down' removes what is there.")
            raise typer.Exit(ExitCode.INTERRUPTED) from None


app = typer.Typer(
    cls=_Boundary,
    help="Check, orchestrate and measure nested virtualization with KVM and libvirt.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from nestctl.console import print_result

        print_result(f"nestctl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say everything that is done.")] = False,
    log_file: Annotated[Path | None, typer.Option(help="Write everything that is done to this file.")] = None,
    events: Annotated[
        Path | None,
        typer.Option(help="Append a JSON line for every step, when it begins and when it has ended, to this file."),
    ] = None,
) -> None:
    handlers: list[logging.Handler] = []
    if verbose:
        handlers.append(logging.StreamHandler())
    else:
        logging.getLogger("nestctl").addHandler(_WARNINGS)
    if log_file:
        try:
            handlers.append(logging.FileHandler(log_file))
        except OSError as error:
            raise UsageError(f"The log file '{log_file}' cannot be written: {error.strerror}.") from error
    if events:
        _send_events(events)
    if handlers:
        logging.basicConfig(level=logging.DEBUG, handlers=handlers, format="%(asctime)s %(name)s: %(message)s")


class _Warnings(logging.Handler):
    """Show what code below the command line warns of as a warning, wherever else it goes."""

    def emit(self, record: logging.LogRecord) -> None:
        from nestctl.console import warn

        warn(record.getMessage())


_WARNINGS = _Warnings(logging.WARNING)


def _send_events(path: Path) -> None:
    from nestctl.console import send_events
    from nestctl.events import open_events

    try:
        send_events(open_events(path))
    except OSError as error:
        raise UsageError(f"Events cannot be written to '{path}': {error.strerror}.") from error


_LAB, _MACHINE = "Labs", "This machine"
app.command(rich_help_panel="The whole job")(quickstart)
app.command(rich_help_panel=_MACHINE)(check)
app.add_typer(nested_app, name="nested", rich_help_panel=_MACHINE)
app.add_typer(image_app, name="image", rich_help_panel=_MACHINE)
app.command(rich_help_panel=_LAB)(init)
app.command(rich_help_panel=_LAB)(adopt)
app.command(rich_help_panel=_LAB)(schema)
app.command(rich_help_panel=_LAB)(render)
app.command(rich_help_panel=_LAB)(plan)
app.command(rich_help_panel=_LAB)(up)
app.command(rich_help_panel=_LAB)(status)
app.command(rich_help_panel=_LAB)(watch)
app.command("list", rich_help_panel=_LAB)(list_labs)
_REACH = "Guests"
app.command(rich_help_panel=_REACH, context_settings={"allow_interspersed_args": False})(ssh)
app.command("exec", rich_help_panel=_REACH, context_settings={"allow_interspersed_args": False})(exec_)
app.command(rich_help_panel=_REACH)(cp)
app.command(rich_help_panel=_REACH)(logs)
app.command(rich_help_panel=_REACH)(console)
app.command("ssh-config", rich_help_panel=_REACH)(ssh_config)
app.command(rich_help_panel=_REACH)(inventory)
app.command(rich_help_panel=_REACH)(bundle)
app.command(rich_help_panel=_REACH)(reset)
app.command(rich_help_panel=_LAB)(run)
app.command(rich_help_panel=_LAB)(extend)
app.command(rich_help_panel=_LAB)(expire)
app.add_typer(bench_app, name="bench", rich_help_panel="Measuring")
app.command(rich_help_panel=_LAB)(down)
app.command(rich_help_panel=_LAB)(audit)
