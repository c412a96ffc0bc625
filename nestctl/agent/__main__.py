"""Run one subcommand and print its answer as JSON: `python3 -m nestctl.agent facts [--passive]`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Callable, Sequence

from . import facts, measure

# A subcommand is a module with `add_arguments(parser)` and `run(options) -> what json.dump can print`.
SUBCOMMANDS: dict[str, Any] = {"facts": facts, "measure": measure}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="agent", description=__doc__)
    subparsers = parser.add_subparsers(dest="subcommand", required=True)
    for name, module in SUBCOMMANDS.items():
        module.add_arguments(subparsers.add_parser(name, help=module.__doc__))
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], Any] = SUBCOMMANDS[options.subcommand].run
    json.dump(run(options), sys.stdout)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
