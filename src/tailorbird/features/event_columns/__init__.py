"""Blocks of routed events as columns, and what each source of a feature reads from them."""
