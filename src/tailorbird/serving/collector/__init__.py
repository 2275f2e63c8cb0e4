"""The collector: accept events, and acknowledge only what is synced."""
