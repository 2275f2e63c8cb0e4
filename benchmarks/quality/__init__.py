"""Benchmarks of quality: how good responses are, as opposed to how fast."""
