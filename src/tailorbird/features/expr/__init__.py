"""Expressions of declarations, and arithmetic that is equal bit for bit on every machine."""
