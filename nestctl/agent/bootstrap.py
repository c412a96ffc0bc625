"""Run the agent from its sources on standard input: `python3 -c THIS_FILE SUBCOMMAND ... < {"module": "source", ...}`.

The sources are one line; what comes behind it is the subcommand's.

It imports from memory, so the machine needs nothing installed and no file is left on it.
"""

import sys

if sys.version_info < (3, 8):  # noqa: UP036 - this is where an older one is told
    sys.exit("nestctl needs Python 3.8 or newer there, and 'python3' is " + sys.version.split()[0])

try:
    import importlib.abc
    import importlib.util
    import json
    from typing import Any
except ImportError as missing:  # a distribution's minimal Python, such as python3-minimal
    sys.exit("nestctl needs Python's whole standard library there: {}".format(missing))  # noqa: UP032 - any Python


class SourcesImporter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import modules whose source is in a dictionary."""

    def __init__(self, sources: Any) -> None:
        self.sources = sources

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname not in self.sources:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package="." not in fullname)

    def exec_module(self, module: Any) -> None:
        source = self.sources[module.__name__]
        exec(compile(source, "<nestctl {}>".format(module.__name__), "exec"), module.__dict__)  # noqa: S102, UP032


if __name__ == "__main__":
    sys.meta_path.insert(0, SourcesImporter(json.loads(sys.stdin.readline())))
    sys.exit(importlib.import_module("agent.__main__").main(sys.argv[1:]))
