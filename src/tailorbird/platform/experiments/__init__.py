"""Experiments of a project: calls, and the object that has them."""
