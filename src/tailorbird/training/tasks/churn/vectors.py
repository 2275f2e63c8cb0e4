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
from tailorbird.training.dataset.codes import IdVocabulary
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
class _TowerEvents:
    """Training data of a tower."""

    events: pa.Table
    person_vocabulary: IdVocabulary
    item_vocabulary: IdVocabulary


def fit_tower_before(
    features: FeatureSet,
    events: pa.Table,
    people: IdVocabulary,
    origin: int,
    settings: TowerSettings,
    seed: int,
) -> tuple[TowerLearner, Space]:
    """Fit a tower as of a moment, over the items that had any event by then.

    Raises:
        UsageError: no tower can be fitted; the message says why.
    """
    if missing_reason := explain_missing_tower(features):
        raise UsageError(missing_reason)
    sequence_and_event_types = find_sequence(features)
    assert sequence_and_event_types is not None
    earlier_events = events.filter(pa.array(micros(events["ts"]) < origin))
    item_vocabulary = IdVocabulary.of(earlier_events["item_id"])
    learner = TowerLearner(
        _TowerEvents(events, people, item_vocabulary),
        *sequence_and_event_types,
        Content(),
        settings,
        seed,
    )
    if learner.count_interactions(origin) < settings.interactions_min:
        raise UsageError(
            f"fewer than {settings.interactions_min:,} events came before the first origin"
        )
    return learner, learner.build_space(Index.from_ids(item_vocabulary.values.to_pylist()), origin)


def judge_vectors(
    cuts_without: Sequence[Cut], cuts_with: Sequence[Cut], seed: int
) -> tuple[bool, str]:
    """Return whether vectors reduced log loss at all origins but the last, and a sentence.

    The last origin stays unseen.
    """
    cut_pairs = list(zip(cuts_without[:-1], cuts_with[:-1], strict=True))
    if not cut_pairs:
        return False, "vectors of people were left out: no earlier origin says whether they help"
    gains = np.concatenate(
        [
            log_losses(cut_without.probability, cut_without.churned)
            - log_losses(cut_with_vectors.probability, cut_with_vectors.churned)
            for cut_without, cut_with_vectors in cut_pairs
        ]
    )
    person = np.unique(
        np.concatenate([cut_without.scores.person for cut_without, _ in cut_pairs]),
        return_inverse=True,
    )[1]
    gain: Interval = Bootstrap(person, seed=seed).mean(gains)
    comparison = (
        f"log loss at earlier origins was {abs(gain.value):.4f} "
        f"{'lower' if gain.value > 0 else 'higher'} with them"
    )
    reason = f"{comparison} (gain {gain.signed_text})"
    is_improved = gain.has_bounds and gain.low > 0
    return (
        is_improved,
        f"vectors of people {'are among the columns' if is_improved else 'were left out'}: {reason}",
    )
