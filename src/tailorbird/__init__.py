"""Tailorbird: events in, recommendations out, and the proof that they helped."""
