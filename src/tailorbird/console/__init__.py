"""Pages of the console: the project's home page, and the demo shop."""
