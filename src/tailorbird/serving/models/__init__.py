"""Bundles, schemas and tables of a server, and their swap under running requests."""
