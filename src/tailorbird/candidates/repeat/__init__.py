"""Repeat consumption: what the person had before, most often first."""
