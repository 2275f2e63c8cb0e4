"""Changes of declarations on a running system, and states built from the lake."""
