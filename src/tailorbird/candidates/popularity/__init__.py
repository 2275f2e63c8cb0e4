"""Popularity and trends: the items with most events in a window, of everybody or of a segment."""
