"""Is it safe for tenants. Pure."""

from __future__ import annotations

from nestctl.check.rules.common import Rule

RULES: tuple[Rule, ...] = ()
