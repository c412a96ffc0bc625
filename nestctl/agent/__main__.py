"""Run one subcommand and print its answer as JSON: `python3 -m nestctl.agent facts [--passive]`.

With `serve` it stays: each line of its input is a subcommand with its arguments, as a JSON array, and is answered by
one line. The first failure ends it. `serve measure` imports that subcommand at once: its first question then costs no
more than the others.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from typing import Any, Sequence

# A subcommand is a module with `add_arguments(parser)` and `run(options) -> what json.dump can print`. Only that which
# is asked for is imported: two levels down, under emulation, each module that is compiled costs a tenth of a second.
SUBCOMMANDS = ("disturbance", "facts", "fingerprint", "measure", "vm_exits")
SERVE = "serve"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand, or with `serve` each line of standard input, a JSON list of words; return 0.

    A wrong word ends the process with 2 (argparse).
    """
    parser = argparse.ArgumentParser(prog="agent", description=__doc__)
    parser.add_argument("subcommand", choices=(*SUBCOMMANDS, SERVE))
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(arguments)
    if chosen.subcommand == SERVE:
        for name in chosen.arguments:
            import_subcommand(name)
        for line in sys.stdin:
            subcommand, *words = json.loads(line)
            answer(subcommand, words)
    else:
        answer(chosen.subcommand, chosen.arguments)
    return 0


def import_subcommand(name: str) -> Any:
    """Return the module of a subcommand."""
    return import_module("." + name, __package__)


def answer(subcommand: str, arguments: Sequence[str]) -> None:
    """Print what a subcommand returns as one line of JSON, flushed, so that who waits for it can go on."""
    module = import_subcommand(subcommand)
    options = argparse.ArgumentParser(prog=f"agent {subcommand}", description=module.__doc__)
    module.add_arguments(options)
    json.dump(module.run(options.parse_args(arguments)), sys.stdout)
    sys.stdout.write("\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
