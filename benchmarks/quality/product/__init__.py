"""Measure what a user's default path serves, beside live baselines. Start at `__main__`."""
