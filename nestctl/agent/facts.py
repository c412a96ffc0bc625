"""Collect everything the check judges: /proc and /sys, CPUID, and what /dev/kvm can really do."""

from __future__ import annotations

import argparse
from typing import Any

from . import cpuid, host, kvm

SCHEMA = "nestctl.facts/2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--passive", action="store_true", help="only read files; never open /dev/kvm")


def run(options: argparse.Namespace) -> dict[str, Any]:
    return read_facts(passive=options.passive)


def read_facts(*, passive: bool = False) -> dict[str, Any]:
    """Look at this machine. With `passive`, /dev/kvm is not opened, and what only it can answer stays unknown."""
    return {
        "schema": SCHEMA,
        "host": host.read_facts(),
        "cpuid": cpuid.read_facts(),
        "kvm": kvm.read_facts(passive=passive),
    }
