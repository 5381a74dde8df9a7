"""Measurements of journaltrack against floors taken in the same run: ``python -m benchmarks``, see
benchmarks/README.md.

Every side of every comparison runs in a fresh child process, the sides take turns, and what is
reported is the median of the ratios of single rounds: this is the figure that a busy machine
distorts least. Nothing here asserts a speed.
"""
