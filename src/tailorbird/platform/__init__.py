"""The public `Project` and the runtime of its roles, for commands and notebooks."""
