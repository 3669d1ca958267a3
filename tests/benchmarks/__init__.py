"""How fast the server is, measured on the machine it runs on: `python -m tests.benchmarks --help`."""
