"""Layouts that the scorers were built with."""
