"""Which candidate tables a project keeps: those that its slots name, and those that the bundles
read that answer or may answer.
"""

import logging
from collections.abc import Iterable

from tailorbird.candidates.contract import Contract, contract_of
from tailorbird.candidates.folder import current_contract
from tailorbird.candidates.query import live_sources
from tailorbird.config.project import Project
from tailorbird.config.schemas import SERVED
from tailorbird.errors import TailorbirdError
from tailorbird.events.clock import SystemClock
from tailorbird.registry import Registry

log = logging.getLogger(__name__)


def shown_by(project: Project) -> str:
    """Return which event says that an item was shown: impressions, unless no slot reports them."""
    return (
        "impression"
        if any(slot.denominator == "impression" for slot in project.slots.values())
        else "answer"
    )


def slots_contract(project: Project, further: Iterable[str] = ()) -> Contract:
    """Return the contract of the sources that slots name, and of further ones."""
    names = [name for slot in project.slots.values() for name in (*slot.sources, *slot.columns)]
    return contract_of(live_sources([*names, *further]), shown=shown_by(project))


def required_contract(project: Project) -> Contract:
    """Return the contract that the candidates role has to keep up: of the slots, and of the bundles
    that answer or may.
    """
    registry = Registry(project.paths.registry, clock=SystemClock())
    sources: list[str] = []
    try:
        for version in filter(None, map(registry.aliases().version_named, SERVED)):
            sources += registry.info(version).sources
    except TailorbirdError as error:
        log.warning("the candidate sources of a bundle are not known: %s", error)
    return slots_contract(project, sources)


def kept_contracts(project: Project) -> list[Contract]:
    """Return the contracts to keep up now: the wanted one, and before it the current one as long as
    the wanted one is being built.
    """
    wanted = required_contract(project)
    try:
        current = current_contract(project.paths.candidates)
    except TailorbirdError as error:
        log.warning("%s", error)
        current = None
    return [wanted] if current is None or current == wanted else [current, wanted]
