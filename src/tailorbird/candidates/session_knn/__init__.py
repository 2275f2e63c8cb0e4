"""Session-kNN: what sessions like the one of who asks went on to (V-SkNN, STAN)."""
