"""Measurements: each module is a command that writes a file under benchmarks/results/."""
