"""The vocabulary of `features.py`: declarations, their checks and their transforms."""
