"""Everybody's score by a churn bundle, in one go: what the lake knows, read by the backfill, scored
as a server would.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tailorbird.errors import BundleError, NotReadyError
from tailorbird.features.attached import AttachedEvents
from tailorbird.lake import Lake, span
from tailorbird.places import Place
from tailorbird.ranking.churn import Churn
from tailorbird.ranking.churn_bundle import ChurnBundle
from tailorbird.ranking.churn_columns import in_seconds
from tailorbird.ranking.churn_reasons import churn_reasons
from tailorbird.training.churn.labels import activity_of
from tailorbird.training.churn.rows import People, needed_columns
from tailorbird.training.churn.segments import Segment, segments, tastes
from tailorbird.training.rows import log_end
from tailorbird.training.settings import Progress

PEOPLE_AT_ONCE = 20_000
EXPLAINED_AT_ONCE = 200


@dataclass(frozen=True)
class Everybody:
    """Everybody's scores: `table`, most likely to leave first, and the `segments` of them that are
    most worth contacting.

    `until`: what the log says ends here; that nobody was there since is not known.
    """

    table: pa.Table
    segments: list[Segment]
    until: int


def score_everybody(
    bundle: ChurnBundle,
    churn: Churn,
    *,
    lake: Place,
    now: int,
    reasons: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> Everybody:
    """person, gone, purchases (null without such a model), reasons and as_of of everybody whom the
    model is asked about.

    Args:
        churn: as declared now; whom and what the model is asked about is taken from the bundle.
        reasons: how many of the likeliest to leave are told why; the others' reasons are null.

    Raises:
        BundleError: the bundle does not bring its declarations.
        NotReadyError: nobody is to be asked about.
    """
    if bundle.features is None:
        raise BundleError(
            "does not bring the declarations of its columns",
            where=bundle.version,
            fix="train again",
        )
    progress("read", 0, 1)
    source = Lake(lake).pinned()
    events = AttachedEvents(source, bundle.features).table(
        needed_columns(bundle.features), span(ts_to=now)
    )
    progress("read", 1, 1)
    activity = activity_of(events, churn, now)
    asked = activity.present(now, bundle.plan.active)
    if not len(asked):
        raise NotReadyError("nobody was there lately enough to be asked about")
    people = People(bundle.features, events, activity, bundle.read, bundle.space)
    gone, purchases, numbers = [], [], []
    for start in range(0, len(asked), PEOPLE_AT_ONCE):
        progress("people", start, len(asked))
        some = asked[start : start + PEOPLE_AT_ONCE]
        tables = people.ahead(now, some, bundle.moments(now))
        scores = bundle.score([(table.numeric, table.categorical) for table in tables])
        numbers.append(tables[0].numeric)
        gone.append(scores.gone)
        purchases.append(scores.purchases)
    progress("people", len(asked), len(asked))
    chance, count = np.concatenate(gone), np.concatenate(purchases)
    order = np.argsort(-chance, kind="stable")
    told: list[list[str] | None] = [None] * len(order)
    for start in range(0, min(reasons, len(order)), EXPLAINED_AT_ONCE):
        progress("reasons", start, min(reasons, len(order)))
        some = order[start : min(start + EXPLAINED_AT_ONCE, reasons)]
        rows = [
            (table.numeric, table.categorical)
            for table in people.ahead(now, asked[some], bundle.moments(now))
        ]
        why = churn_reasons(bundle, rows)
        told[start : start + len(some)] = [[reason.text for reason in each] for each in why]
    columns = {
        "person": activity.people.values.take(pa.array(asked[order])),
        "gone": pa.array(chance[order]),
        "purchases": pa.array(count[order], mask=np.isnan(count[order])),
        "reasons": pa.array(told, pa.list_(pa.string())),
        "as_of": pa.array(np.full(len(order), now), pa.timestamp("us", "UTC")),
    }
    matrix, read = np.concatenate(numbers), len(bundle.read.numeric)
    taste = tastes(bundle.space, matrix[:, read:]) if bundle.space is not None else {}
    numbers_read, seconds = matrix[:, :read].astype(np.float64), in_seconds(bundle.features)
    found = segments(bundle.read.numeric, numbers_read, chance, churn.contact, taste, seconds)
    return Everybody(pa.table(columns), found, log_end(events))
