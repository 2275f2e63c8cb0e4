"""Versions of the model of a project: their verification, canary and formulas."""
