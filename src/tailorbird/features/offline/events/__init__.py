"""The events of a backfill as columns, and the newest of them at a query."""
