"""Benchmarks: `python -m benchmarks.NAME [--small] [--json]`; of quality, `python -m
benchmarks.quality.NAME`.
"""
