"""Session-kNN: continuations of sessions similar to the current one (V-SkNN, STAN)."""
