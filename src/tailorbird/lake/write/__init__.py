"""The lake role: from the logs to rows of the tables."""
