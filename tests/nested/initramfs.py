"""A Linux as small as can be that runs nestctl's agent: an initramfs with the kernel of nestctl's own guest image.

It boots where a whole distribution would take an hour: in an emulator that interprets every instruction. Python and its
modules are this machine's, compiled before; nothing is on a disk.
"""

from __future__ import annotations

import json
import py_compile
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import nestctl.agent
from nestctl.image.store import Image
from tests.needs import need_program

# What the interpreter loads to run the agent, asked of itself; and what it needs to measure.
_LOADED = """
import json, os, runpy, sys
sys.path.insert(0, sys.argv[1])
sys.stdout = open(os.devnull, "w")
sys.argv[1:] = ["facts"]
try:
    runpy.run_module("agent", run_name="__main__")
except SystemExit:
    pass
import agent.measure, encodings.ascii
origins = {name: getattr(module.__spec__, "origin", None) for name, module in sys.modules.items() if
           getattr(module, "__spec__", None)}
json.dump({name: origin for name, origin in origins.items() if origin and os.path.exists(origin)}, sys.__stdout__)
"""

_BEGIN = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
export PYTHONPATH=/ PYTHONHOME={python} PYTHONDONTWRITEBYTECODE=1
load() { # MODULE [PARAMETER=VALUE]...
    while read -r needed; do [ -e "/sys/module/$needed" ] || $b insmod "/modules/$needed.ko"; done < "/modules/$1.needs"
    module=$1 && shift
    $b insmod "/modules/$module.ko" "$@"
}
unload() { $b rmmod "$1"; }
agent() { name=$1 && shift && echo "<$name $(/usr/bin/python3 -S -m agent facts "$@")>"; }
python() { echo "<$1 $(/usr/bin/python3 -S -c "$2")>"; }
"""

_END = "echo '<end 0>'\n$b sleep 1\n$b poweroff -f\n"  # the serial port is slower than the end


def build_initramfs(image: Image, work: Path, *, script: str) -> Path:
    """Build an initramfs whose first process runs `script`, a shell script with these commands to use:

    `load MODULE [PARAMETER=VALUE]...` inserts a module of the kernel with those it needs, `unload MODULE` removes it;
    `agent NAME [--record]` collects facts and prints them under that name for `read_answers`, and `python NAME CODE`
    what a program prints that may import from the agent.
    """
    root = work / "root"
    for directory in ("dev", "proc", "sys", "bin", "usr/bin", "modules"):
        (root / directory).mkdir(parents=True)
    shutil.copy(need_program("busybox", "busybox-static"), root / "bin/busybox")
    _add_python(root)
    modules = re.findall(r"^\s*load (\S+)", script, re.MULTILINE)
    _add_modules(image, root, sorted(set(modules)))
    init = root / "init"
    init.write_text(_BEGIN.replace("{python}", sys.base_prefix) + script + _END)
    init.chmod(0o755)
    return _pack(root, work / "initramfs.gz")


def read_answers(console: str) -> dict[str, Any]:
    """Return what `agent` printed on the console, by name; 'end' is there when the script came to its end."""
    return {name: json.loads(text) for name, text in re.findall(r"<(\S+) (\{.*?\}|0)>\r?$", console, re.MULTILINE)}


def _add_python(root: Path) -> None:
    interpreter = Path(sys.executable).resolve()
    agent = root / "agent"
    shutil.copytree(Path(nestctl.agent.__file__).parent, agent, ignore=shutil.ignore_patterns("__pycache__"))
    command = (interpreter, "-I", "-S", "-B", "-c", _LOADED, root)
    loaded: dict[str, str] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    shutil.copy(interpreter, root / "usr/bin/python3")
    libraries = {interpreter}
    for origin in map(Path, loaded.values()):
        if origin.suffix == ".so":
            libraries.add(origin)
            _copy(origin, root)
        elif agent not in origin.parents:
            _compile(origin, root / origin.relative_to("/").with_suffix(".pyc"))
    for source in agent.glob("*.py"):
        _compile(source, source.with_suffix(".pyc"))
        source.unlink()
    for library in _needed_libraries(libraries):
        _copy(library, root)


def _compile(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Nothing looks at the source's time: it is not there.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), cfile=str(target), doraise=True, invalidation_mode=mode)


def _needed_libraries(binaries: set[Path]) -> set[Path]:
    """Ask the dynamic linker, by ldd(1), what it would load for these files."""
    listing = subprocess.run(("ldd", *binaries), check=True, capture_output=True, text=True).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", listing)}


def _copy(path: Path, root: Path) -> None:
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)


def _add_modules(image: Image, root: Path, names: Sequence[str]) -> None:
    """Take modules of the image's kernel from its disk, without mounting it: debugfs(8) reads ext4."""
    release = _debugfs(image, "ls -p /lib/modules").split("/")
    (version,) = (word for word in release if re.match(r"\d+\.\d+", word))
    base = PurePosixPath("/lib/modules") / version
    needs = dict(line.split(":", 1) for line in _debugfs(image, f"cat {base}/modules.dep").splitlines())
    paths = {_module_name(path): path for path in needs}
    for name in names:
        needed = list(reversed(needs[paths[name]].split()))
        for path in (*needed, paths[name]):
            _debugfs(image, f"dump {base / path} {root}/modules/{_module_name(path)}.ko")
        (root / f"modules/{name}.needs").write_text("".join(f"{_module_name(path)}\n" for path in needed))


def _module_name(path: str) -> str:
    return PurePosixPath(path).name.split(".")[0].replace("-", "_")


def _debugfs(image: Image, request: str) -> str:
    command = (need_program("debugfs", "e2fsprogs"), "-R", request, image.disk)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _pack(root: Path, target: Path) -> Path:
    names = "\n".join(_walk(root))
    command = (need_program("cpio", "cpio"), "--quiet", "-o", "-H", "newc", "-R", "0:0")
    archive = subprocess.run(command, input=names.encode(), cwd=root, check=True, capture_output=True).stdout
    with target.open("wb") as file:
        subprocess.run(("gzip", "-n", "-9"), input=archive, stdout=file, check=True)
    return target


def _walk(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*")):
        yield str(path.relative_to(root))
