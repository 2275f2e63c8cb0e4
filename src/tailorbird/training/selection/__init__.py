"""Selection of feature columns by their value and their cost."""
