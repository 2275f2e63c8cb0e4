"""`tailorbird train`, `tune`, `validate`, `evaluate` and `score`."""
