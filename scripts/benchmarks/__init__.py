"""Measurements behind docs/benchmarks.md: each compared side by side in one run, given as a ratio with its interval."""
