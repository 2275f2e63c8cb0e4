"""Vectors of people among the columns of a churn model: kept only where they told people better
apart at earlier origins.

The tower is learned from what came before the first origin that is judged, so that no figure knows
its own future; rows of before, which are only learned from, are read by a tower that has seen what
came next. It is not learned anew for the bundle: columns mean what they meant when models learned
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tailorbird.errors import UsageError
from tailorbird.events import micros
from tailorbird.features import FeatureSet
from tailorbird.ranking.tower import Space
from tailorbird.retrieval import Index
from tailorbird.retrieval.vectors import Content
from tailorbird.training.bootstrap import Bootstrap, Interval
from tailorbird.training.churn.walk import Cut
from tailorbird.training.coding import Codes
from tailorbird.training.metrics import log_losses
from tailorbird.training.towers import Learner, TowerSettings, read_by, why_none

SMALL = TowerSettings(width=16, epochs=10.0, negatives=256, steps_max=600)


@dataclass(frozen=True)
class _Log:
    """What a tower learns from."""

    events: pa.Table
    people: Codes
    codes: Codes


def tower_before(
    features: FeatureSet,
    events: pa.Table,
    people: Codes,
    moment: int,
    settings: TowerSettings,
    seed: int,
) -> tuple[Learner, Space]:
    """A tower as of a moment, over the items that anybody had met by then.

    Raises:
        UsageError: it cannot be had; says why.
    """
    if why := why_none(features):
        raise UsageError(why)
    read = read_by(features)
    assert read is not None
    before = events.filter(pa.array(micros(events["ts"]) < moment))
    codes = Codes.of(before["item_id"])
    learner = Learner(_Log(events, people, codes), *read, Content(), settings, seed)
    if learner.count(moment) < settings.interactions_min:
        raise UsageError(
            f"fewer than {settings.interactions_min:,} events came before the first origin"
        )
    return learner, learner.space(Index.bare(codes.values.to_pylist()), moment)


def better(plain: Sequence[Cut], by_vectors: Sequence[Cut], seed: int) -> tuple[bool, str]:
    """Whether vectors told people better apart at all origins but the last, which stays unseen; and
    a sentence.
    """
    pairs = list(zip(plain[:-1], by_vectors[:-1], strict=True))
    if not pairs:
        return False, "vectors of people were left out: no earlier origin says whether they help"
    gained = np.concatenate(
        [log_losses(a.probability, a.gone) - log_losses(b.probability, b.gone) for a, b in pairs]
    )
    person = np.unique(np.concatenate([a.scored.person for a, _ in pairs]), return_inverse=True)[1]
    gain: Interval = Bootstrap(person, seed=seed).mean(gained)
    by = (
        f"log loss at earlier origins was {abs(gain.value):.4f} "
        f"{'lower' if gain.value > 0 else 'higher'} with them"
    )
    told = f"{by} (gain {gain.signed})"
    kept = gain.known and gain.low > 0
    return kept, f"vectors of people {'are among the columns' if kept else 'were left out'}: {told}"
