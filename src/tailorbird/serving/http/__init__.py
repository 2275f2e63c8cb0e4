"""The HTTP server: routes, access, bodies, and the APIs of other systems."""
