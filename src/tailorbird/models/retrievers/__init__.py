"""Models that give people and items vectors, by which candidates are found: `transformer`.
`protocol` says what they are asked.
"""

from tailorbird.models.retrievers.protocol import Contexts, Recipe, Retriever, Top

__all__ = ["Contexts", "Recipe", "Retriever", "Top"]
