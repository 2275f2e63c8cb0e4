"""Score all people with a churn bundle, from the lake, as a server would."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tailorbird.errors import BundleError, NotReadyError
from tailorbird.features.offline.profile_join import JoinedEvents
from tailorbird.lake import Lake, time_filter
from tailorbird.ranking.churn.bundle import ChurnBundle
from tailorbird.ranking.churn.columns import duration_columns
from tailorbird.ranking.churn.declaration import Churn
from tailorbird.ranking.churn.reasons import churn_reasons
from tailorbird.storage_paths import StoragePath
from tailorbird.training.dataset.rows import log_end
from tailorbird.training.settings import Progress
from tailorbird.training.tasks.churn.labels import build_activity
from tailorbird.training.tasks.churn.rows import PeopleFeatures, needed_columns
from tailorbird.training.tasks.churn.segments import Segment, find_segments, group_by_taste

PEOPLE_PER_CHUNK = 20_000
EXPLANATIONS_PER_CHUNK = 200


@dataclass(frozen=True)
class ChurnScores:
    """Scores of all people.

    Attributes:
        table: people, most likely to leave first.
        segments: groups of people that are most worth contacting.
        until: end of the log; absence after it is unknown.
    """

    table: pa.Table
    segments: list[Segment]
    until: int


def score_people(
    bundle: ChurnBundle,
    churn: Churn,
    *,
    lake: StoragePath,
    now: int,
    reasons: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> ChurnScores:
    """Return person, gone, purchases, reasons and as_of of all eligible people.

    `purchases` is null without a count model.

    Args:
        churn: the current declaration; eligibility and window come from the bundle.
        reasons: how many of the riskiest people get reasons; the rest are null.

    Raises:
        BundleError: the bundle lacks its feature declarations.
        NotReadyError: no person is eligible.
    """
    if bundle.features is None:
        raise BundleError(
            "does not bring the declarations of its columns",
            where=bundle.version,
            fix="train again",
        )
    progress("read", 0, 1)
    pinned_lake = Lake(lake).pin_versions()
    events = JoinedEvents(pinned_lake, bundle.features).table(
        needed_columns(bundle.features), time_filter(ts_to=now)
    )
    progress("read", 1, 1)
    activity = build_activity(events, churn, now)
    eligible_people = activity.active_people(now, bundle.plan.active)
    if not len(eligible_people):
        raise NotReadyError("nobody was there lately enough to be asked about")
    people = PeopleFeatures(bundle.features, events, activity, bundle.feature_columns, bundle.space)
    probabilities = []
    purchases = []
    numeric_chunks = []
    for start in range(0, len(eligible_people), PEOPLE_PER_CHUNK):
        progress("people", start, len(eligible_people))
        chunk = eligible_people[start : start + PEOPLE_PER_CHUNK]
        tables = people.read_projected(now, chunk, bundle.moments(now))
        scores = bundle.score([(table.numeric, table.categorical) for table in tables])
        numeric_chunks.append(tables[0].numeric)
        probabilities.append(scores.churn_probability)
        purchases.append(scores.purchases)
    progress("people", len(eligible_people), len(eligible_people))
    churn_probability = np.concatenate(probabilities)
    purchase_counts = np.concatenate(purchases)
    people_order = np.argsort(-churn_probability, kind="stable")
    reason_texts: list[list[str] | None] = [None] * len(people_order)
    for start in range(0, min(reasons, len(people_order)), EXPLANATIONS_PER_CHUNK):
        progress("reasons", start, min(reasons, len(people_order)))
        chunk = people_order[start : min(start + EXPLANATIONS_PER_CHUNK, reasons)]
        matrices = [
            (table.numeric, table.categorical)
            for table in people.read_projected(now, eligible_people[chunk], bundle.moments(now))
        ]
        explanations = churn_reasons(bundle, matrices)
        reason_texts[start : start + len(chunk)] = [
            [reason.text for reason in person_reasons] for person_reasons in explanations
        ]
    columns = {
        "person": activity.people.values.take(pa.array(eligible_people[people_order])),
        "gone": pa.array(churn_probability[people_order]),
        "purchases": pa.array(
            purchase_counts[people_order], mask=np.isnan(purchase_counts[people_order])
        ),
        "reasons": pa.array(reason_texts, pa.list_(pa.string())),
        "as_of": pa.array(np.full(len(people_order), now), pa.timestamp("us", "UTC")),
    }
    matrix = np.concatenate(numeric_chunks)
    numeric_count = len(bundle.feature_columns.numeric)
    groups_by_taste = (
        group_by_taste(bundle.space, matrix[:, numeric_count:]) if bundle.space is not None else {}
    )
    numeric_values = matrix[:, :numeric_count].astype(np.float64)
    duration_names = duration_columns(bundle.features)
    top_segments = find_segments(
        bundle.feature_columns.numeric,
        numeric_values,
        churn_probability,
        churn.contact,
        groups_by_taste,
        duration_names,
    )
    return ChurnScores(pa.table(columns), top_segments, log_end(events))
