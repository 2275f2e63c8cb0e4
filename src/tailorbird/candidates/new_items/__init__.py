"""New items: what came lately, with or without a profile."""
