"""Detection of columns and profiles that know the outcome."""
