"""Backfills larger than memory, partition by partition."""
