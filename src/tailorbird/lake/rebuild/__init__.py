"""Rebuild the corrupt parts of a lake, see `rebuild.rebuilder`."""

from tailorbird.lake.rebuild.plan import Plan, Rebuilt, Unrecoverable
from tailorbird.lake.rebuild.rebuilder import Rebuilder

__all__ = ["Plan", "Rebuilder", "Rebuilt", "Unrecoverable"]
