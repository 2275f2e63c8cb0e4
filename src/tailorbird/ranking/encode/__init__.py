"""The encoder: from features to the matrix of a model."""
