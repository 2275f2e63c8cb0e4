"""Checks of a project: its declarations, its settings, and the state of its parts."""
