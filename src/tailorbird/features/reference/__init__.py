"""The definition of every feature in plain Python, as the oracle of the other paths."""
