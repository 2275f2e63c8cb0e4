"""Item-kNN: items that co-occur within a few events of a user."""
