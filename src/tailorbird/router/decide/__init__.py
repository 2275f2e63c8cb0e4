"""Decisions on one event: duplicates, identity, profiles and attribution."""
