"""Routers of several partitions, and the order of their rows."""
