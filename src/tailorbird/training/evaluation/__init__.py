"""Metrics with intervals, comparison with baselines, and the promotion gate."""
