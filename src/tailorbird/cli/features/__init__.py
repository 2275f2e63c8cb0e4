"""`tailorbird features`: list, show, verify, backfill and change features."""
