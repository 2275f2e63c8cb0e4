"""Comparison of HTTP servers: limits, ambiguous requests, hand-over and speed."""
