"""The roles as processes: supervisor, listening socket, trainer and local servers."""
