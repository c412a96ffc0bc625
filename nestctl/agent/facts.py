"""Collect everything the check judges: files, CPUID, and what /dev/kvm can really do."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any, Mapping

from . import capabilities, cpuid, host, kvm, modules, nested, place, proof, safety, software, system
from .fact import Fact, find_out, unknown
from .tree import Entry, RecordedTree, Tree

SCHEMA = "nestctl.facts/2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the subcommand `facts`."""
    parser.add_argument("--passive", action="store_true", help="only read files; never open /dev/kvm, start nothing")
    parser.add_argument("--record", action="store_true", help="add what was read of every file, as 'tree'")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return the document that the subcommand `facts` prints, of schema `nestctl.facts`."""
    return read_facts(passive=options.passive, record=options.record)


def read_facts(*, passive: bool = False, record: bool = False) -> dict[str, Any]:
    """Look at this machine. With `passive`, /dev/kvm is not opened, and what only it can answer stays unknown.

    With `record` the document has a key 'tree' more: what a `RecordedTree` answers from.
    """
    tree = Tree()
    read = read_files(tree)
    document = {
        "schema": SCHEMA,
        "host": read,
        "system": system.read_facts(
            ask_qemu=not passive and _is_version_missing(read["qemu"]),
            ask_libvirt=not passive and _is_version_missing(read["libvirt"]),
        ),
        "cpuid": cpuid.read_facts(),
        "kvm": _read_kvm(passive=passive),
    }
    return {**document, "tree": tree.seen} if record else document


def replay(probe: Mapping[str, Any], entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Return the document of a recorded machine: its files are read by the code above, the rest is as recorded."""
    architecture = probe.get("architecture")
    return {
        "schema": SCHEMA,
        "host": read_files(RecordedTree(entries), architecture if isinstance(architecture, str) else ""),
        **{section: probe.get(section) for section in ("system", "cpuid", "kvm")},
    }


def read_files(tree: Tree, architecture: str = "") -> dict[str, Fact]:
    """Read everything that files tell; `architecture` is that of a recorded machine, else this one's."""
    read = host.read_facts(tree, architecture)
    kernel, machine = read["kernel"].get("value", ""), read["architecture"].get("value", "")
    return {
        **read,
        **modules.read_facts(tree, kernel, machine),
        **place.read_facts(tree),
        **safety.read_facts(tree, kernel),
        **software.read_facts(tree),
    }


def _is_version_missing(program: Fact) -> bool:
    found = program.get("value", {})
    return bool(found.get("program")) and not found.get("version")


def _read_kvm(*, passive: bool) -> dict[str, Fact]:
    with nullcontext() if passive else kvm.keep_virtualization_on():
        return {
            **proof.read_facts(passive=passive),
            "nested_run": nested.read_fact(passive=passive),
            **_ask_device(passive=passive),
        }


def _ask_device(*, passive: bool) -> dict[str, Fact]:
    return {
        question: unknown(proof.NOT_PROVED) if passive else find_out(ask)
        for question, ask in capabilities.QUESTIONS.items()
    }
