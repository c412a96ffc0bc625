"""Measure every level of a lab the same way, and say what each level costs and how sure that is."""
