"""A placeholder: a project needs at least one slot, and this one gets no requests."""

from tailorbird.ranking import Slot

none = Slot("none", objective={"purchase": 1.0})
