"""Expressions: one grammar, kinds, and evaluation over columns and value by value."""
