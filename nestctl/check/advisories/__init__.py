"""The advisories that matter when guests of strangers are given VMX, SVM or EL2, as data and as a judgement."""

from __future__ import annotations

from nestctl.check.advisories.advisory import Advisory, Harm, Reach, Vendor
from nestctl.check.advisories.judge import Judgement, Standing, assess_release
from nestctl.check.advisories.release import Basis, Release, identify_release
from nestctl.check.advisories.table import AdvisoryTable, load_advisories

__all__ = [
    "Advisory",
    "AdvisoryTable",
    "Basis",
    "Harm",
    "Judgement",
    "Reach",
    "Release",
    "Standing",
    "Vendor",
    "assess_release",
    "identify_release",
    "load_advisories",
]
