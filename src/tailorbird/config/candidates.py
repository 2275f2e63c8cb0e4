"""The candidate tables that a project maintains: those that its slots or its live bundles read.

A contract lists the candidate sources whose tables are built together.
"""

import logging
from collections.abc import Iterable

from tailorbird.candidates.contract import Contract, build_contract
from tailorbird.candidates.folder import current_contract
from tailorbird.candidates.query import select_live_sources
from tailorbird.config.project import Project
from tailorbird.config.schemas import served_versions
from tailorbird.errors import TailorbirdError
from tailorbird.events.clock import SystemClock
from tailorbird.registry import Registry

log = logging.getLogger(__name__)


def exposure_event(project: Project) -> str:
    """Return the event that counts as exposure: impressions, unless no slot reports them."""
    return (
        "impression"
        if any(slot.denominator == "impression" for slot in project.slots.values())
        else "answer"
    )


def slots_contract(project: Project, extra_sources: Iterable[str] = ()) -> Contract:
    """Return the contract of the sources that slots name, and of extra ones."""
    names = [name for slot in project.slots.values() for name in (*slot.sources, *slot.columns)]
    return build_contract(
        select_live_sources([*names, *extra_sources]), shown=exposure_event(project)
    )


def required_contract(project: Project) -> Contract:
    """Return the contract of all candidate tables that slots and live bundles need."""
    registry = Registry(project.paths.registry, clock=SystemClock())
    sources: list[str] = []
    try:
        for version in served_versions(registry):
            sources += registry.info(version).sources
    except TailorbirdError as error:
        log.warning("the candidate sources of a bundle are unknown: %s", error)
    return slots_contract(project, sources)


def maintained_contracts(project: Project) -> list[Contract]:
    """Return the contracts to maintain now, the required one last.

    The current contract stays in front of it while the tables of the required one are being built.
    """
    required = required_contract(project)
    try:
        current = current_contract(project.paths.candidates)
    except TailorbirdError as error:
        log.warning("%s", error)
        current = None
    return [required] if current is None or current == required else [current, required]
