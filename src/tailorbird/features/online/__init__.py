"""The worker that updates the state, and the reader of its records."""
