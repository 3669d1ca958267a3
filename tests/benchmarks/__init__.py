"""Measures how fast the server is on this machine: `python -m tests.benchmarks --help`."""
