"""Repeat consumption: the user's past items, most frequent first."""
