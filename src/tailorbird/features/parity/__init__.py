"""Checks that served features equal those recomputed from the lake."""
