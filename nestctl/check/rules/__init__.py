"""One finding each: what was looked at, what was seen, and what to do; grouped by the question they answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from nestctl.check.findings import Question
from nestctl.check.rules import acceleration, offer, proof, quality, safety, where
from nestctl.check.rules.common import Rule

RULES_BY_QUESTION: Mapping[Question, tuple[Rule, ...]] = {
    Question.WHERE: where.RULES,
    Question.ACCELERATION: acceleration.RULES,
    Question.OFFER: (*offer.RULES, *proof.RULES),
    Question.QUALITY: quality.RULES,
    Question.SAFETY: safety.RULES,
}

RULES: tuple[Rule, ...] = tuple(rule for rules in RULES_BY_QUESTION.values() for rule in rules)
