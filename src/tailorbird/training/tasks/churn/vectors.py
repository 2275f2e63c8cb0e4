"""Decide whether people's vectors join the columns of a churn model.

They are used only if they separated people better at earlier origins. The tower is trained on
events before the first evaluated origin, so no metric sees its own future. Earlier rows, which only
serve as training data, are embedded by a tower that has seen what came next. The tower is not
trained again for the bundle: columns must keep the meaning that the models learned.
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
from tailorbird.training.dataset.codes import Codes
from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval
from tailorbird.training.evaluation.metrics import log_losses
from tailorbird.training.fit.towers import (
    TowerLearner,
    TowerSettings,
    explain_missing_tower,
    find_sequence,
)
from tailorbird.training.tasks.churn.model_choice import Cut

TOWER_SETTINGS = TowerSettings(width=16, epochs=10.0, negatives=256, steps_max=600)


@dataclass(frozen=True)
class _TowerLog:
    """Training data of a tower."""

    events: pa.Table
    people: Codes
    item_codes: Codes


def fit_tower_before(
    features: FeatureSet,
    events: pa.Table,
    people: Codes,
    moment: int,
    settings: TowerSettings,
    seed: int,
) -> tuple[TowerLearner, Space]:
    """Fit a tower as of a moment, over the items that had any event by then.

    Raises:
        UsageError: no tower can be fitted; the message says why.
    """
    if why := explain_missing_tower(features):
        raise UsageError(why)
    read = find_sequence(features)
    assert read is not None
    earlier_events = events.filter(pa.array(micros(events["ts"]) < moment))
    codes = Codes.of(earlier_events["item_id"])
    learner = TowerLearner(_TowerLog(events, people, codes), *read, Content(), settings, seed)
    if learner.count(moment) < settings.interactions_min:
        raise UsageError(
            f"fewer than {settings.interactions_min:,} events came before the first origin"
        )
    return learner, learner.space(Index.bare(codes.values.to_pylist()), moment)


def vectors_help(
    cuts_without: Sequence[Cut], cuts_with: Sequence[Cut], seed: int
) -> tuple[bool, str]:
    """Return whether vectors reduced log loss at all origins but the last, and a sentence.

    The last origin stays unseen.
    """
    pairs = list(zip(cuts_without[:-1], cuts_with[:-1], strict=True))
    if not pairs:
        return False, "vectors of people were left out: no earlier origin says whether they help"
    gains = np.concatenate(
        [
            log_losses(a.probability, a.churned) - log_losses(b.probability, b.churned)
            for a, b in pairs
        ]
    )
    person = np.unique(np.concatenate([a.scores.person for a, _ in pairs]), return_inverse=True)[1]
    gain: Interval = Bootstrap(person, seed=seed).mean(gains)
    comparison = (
        f"log loss at earlier origins was {abs(gain.value):.4f} "
        f"{'lower' if gain.value > 0 else 'higher'} with them"
    )
    sentence = f"{comparison} (gain {gain.signed})"
    improves = gain.has_bounds and gain.low > 0
    return (
        improves,
        f"vectors of people {'are among the columns' if improves else 'were left out'}: {sentence}",
    )
