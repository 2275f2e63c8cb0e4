"""Durable files of the lake: archive, ledger, lease and atomic swaps."""
