"""What the system tests and the benchmarks stand on: real processes, and a link that can be made bad."""
