"""Popularity and trends: the items with most events in a window, overall or per segment."""
