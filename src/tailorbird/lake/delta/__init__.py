"""Delta tables with durable commits, checked against the ledger."""
