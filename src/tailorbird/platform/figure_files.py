"""The live figures of a project on disk."""

from tailorbird.config import Project
from tailorbird.events import parse_duration
from tailorbird.lake import Lake
from tailorbird.monitoring.figures import FigureStore
from tailorbird.monitoring.figures.cells import SlotRule


def figure_store(project: Project) -> FigureStore:
    """Return the figures of a project on disk."""
    rules = {
        name: SlotRule(slot.denominator, parse_duration(slot.attribution))
        for name, slot in project.slots.items()
    }
    return FigureStore(project.paths.monitoring / "figures", Lake(project.paths.lake), rules)
