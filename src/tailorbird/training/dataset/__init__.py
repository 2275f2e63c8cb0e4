"""Training sets: requests, labels, candidates and features as of their time."""
