"""What monitoring detects, how soon, and how often it is wrong, on sites with known truth."""
