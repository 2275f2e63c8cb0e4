"""Streaming scores: their role and their log."""
