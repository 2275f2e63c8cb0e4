"""New items: recently added items, with or without a profile."""
