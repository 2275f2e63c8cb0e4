"""The request pipeline: from a query to a slate and its record."""
