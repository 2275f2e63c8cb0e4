"""The event contract: what an event may hold, checked by row and by column."""
