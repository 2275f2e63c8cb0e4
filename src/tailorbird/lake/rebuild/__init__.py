"""Rebuild the corrupt parts of a lake, see `rebuild.rebuilder`."""

from tailorbird.lake.rebuild.plan import Plan, Rebuild, Unrecoverable
from tailorbird.lake.rebuild.rebuilder import Rebuilder

__all__ = ["Plan", "Rebuild", "Rebuilder", "Unrecoverable"]
