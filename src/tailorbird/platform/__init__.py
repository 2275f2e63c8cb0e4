"""A project as its users hold it, and the runtime of its roles: what commands and notebooks call."""
