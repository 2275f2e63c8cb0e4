"""Loops of the backfill, compiled by Numba."""
