"""Run one subcommand and print its answer as JSON: `python3 -m nestctl.agent facts [--passive]`."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from typing import Any, Sequence

# A subcommand is a module with `add_arguments(parser)` and `run(options) -> what json.dump can print`. Only that which
# is asked for is imported: two levels down, under emulation, each module that is compiled costs a tenth of a second.
SUBCOMMANDS = ("facts", "measure")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="agent", description=__doc__)
    parser.add_argument("subcommand", choices=SUBCOMMANDS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(arguments)
    module: Any = import_module("." + chosen.subcommand, __package__)
    options = argparse.ArgumentParser(prog=f"agent {chosen.subcommand}", description=module.__doc__)
    module.add_arguments(options)
    json.dump(module.run(options.parse_args(chosen.arguments)), sys.stdout)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
