"""Benchmarks of PiSync: one module per group of figures, each a generator of results."""
