"""Nothing is shown here: a project has at least one slot, and this one is asked for nothing."""

from tailorbird.ranking import Slot

none = Slot("none", objective={"purchase": 1.0})
