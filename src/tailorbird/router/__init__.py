"""The router: decide once per event on contract, duplicates, identity, profiles and attribution."""

from tailorbird.router.columns import DUPLICATES, to_table
from tailorbird.router.opening import open_router
from tailorbird.router.role import run_router
from tailorbird.router.router import Router, RouteReport

__all__ = ["DUPLICATES", "RouteReport", "Router", "open_router", "run_router", "to_table"]
