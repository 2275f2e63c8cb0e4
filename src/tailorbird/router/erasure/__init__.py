"""Erasure of people from the router's index and topics."""
