"""Pages: the demo shop now, the console of a running site later."""
