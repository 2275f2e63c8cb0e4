"""The recipe of a sequence transformer, without torch until it is fitted."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailorbird.models.interactions import Interactions
from tailorbird.models.retrievers.transformer.settings import TransformerSettings

if TYPE_CHECKING:
    from tailorbird.models.retrievers.transformer.vectors import SequenceVectors


@dataclass(frozen=True)
class SequenceTransformer(TransformerSettings):
    """A recipe that fits a transformer by its settings."""

    def fit(self, interactions: Interactions, t: int) -> "SequenceVectors":
        from tailorbird.models.retrievers.transformer.vectors import fit

        return fit(self, interactions.before(t))
