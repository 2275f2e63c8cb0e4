"""`tailorbird models`: versions of bundles and their rollout."""
