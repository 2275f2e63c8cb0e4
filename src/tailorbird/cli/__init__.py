"""The command line: one command a file, each of which parses, calls the library and reports."""
