"""Tests of nestctl.bench.tune."""
