"""Churn models: their declaration, bundle and reasons."""
