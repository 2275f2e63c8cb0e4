"""Fitting of heads: architectures, encoders, calibration, and towers for retrieval."""
