"""Models that embed people and items to retrieve candidates: `transformer`.

`protocol` defines their interface.
"""

from tailorbird.models.retrievers.protocol import Contexts, Recipe, Retriever, TopItems

__all__ = ["Contexts", "Recipe", "Retriever", "TopItems"]
