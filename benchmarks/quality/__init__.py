"""How good the answers are, as opposed to how fast."""
