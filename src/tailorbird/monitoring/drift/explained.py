"""Measure the share of a fall of clicks that a cause explains, without the requests that it reaches.

    fall       log of the figure before, less the log after: of the model's arm over its control's,
               or of the champion alone
    explained  1 − fall without the requests ÷ fall of all

People are resampled, not events: who comes often has one taste. What reaches both arms alike leaves
the fall as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY, HOUR
from tailorbird.events.contract.schema import micros
from tailorbird.experiments.counts import COLUMNS
from tailorbird.experiments.outcomes import (
    CLICK,
    IMPRESSION,
    PURCHASE,
    RESPONSE,
    encode_values,
    match_outcomes,
)
from tailorbird.monitoring.drift.sketches import CHECKED_FIELDS
from tailorbird.monitoring.retrain import RetrainCriteria

EVENT_COLUMNS = tuple(dict.fromkeys((*COLUMNS, "device", "model", *CHECKED_FIELDS)))
RECORD_COLUMNS = ("request_id", "degraded", "candidate_sources", "latency_us", "assigned_version")
HITS_MIN = 30.0  # clicks in each arm and window; the log ratio of fewer is not normal
GROUPS = 1_000  # of people, which are drawn together: as good as people, and quicker
DRAWS = 400
CONFIDENCE = 0.95

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Explained:
    """A fall without some requests: what remains of it.

    Attributes:
        share: of the fall that they explain; NaN if too few other requests are there to tell.
        is_beyond_chance: whoever the other people are, their fall is smaller.
        is_rest_beyond_chance: the fall of the others is none that chance explains.
        affected, total: the requests since the fall began, and how many of them are meant.
    """

    share: float
    is_beyond_chance: bool
    is_rest_beyond_chance: bool
    affected: int
    total: int


@dataclass(frozen=True)
class Requests:
    """The answers that a fall is of, with what came of them; shapes (n,).

    Attributes:
        since: when the fall began, microseconds.
        answers: their rows, with `RECORD_COLUMNS`.
        is_treated: of the model's arm; the others are the control's.
        hits, shown: numerator and denominator of the figure.
        events: all events of both windows, with `EVENT_COLUMNS`.
    """

    since: int
    answers: pa.Table
    ts: Ints
    person: Ints
    is_treated: Bools
    hits: Floats
    shown: Floats
    events: pa.Table
    has_control: bool = True

    @property
    def is_after(self) -> Bools:
        """Return which came since the fall began."""
        return self.ts >= self.since

    def nothing(self) -> Bools:
        """Return a mask without any request."""
        return np.zeros(len(self.ts), bool)

    def have(self, column: str, values: Sequence[str]) -> Bools:
        """Return which have one of the values in a column, or in its list."""
        texts = self.answers[column].combine_chunks()
        if not pa.types.is_list(texts.type):
            return pc.is_in(texts, pa.array(values, pa.string())).to_numpy(zero_copy_only=False)
        is_value = pc.is_in(pc.list_flatten(texts), pa.array(values, pa.string()))
        mask = self.nothing()
        mask[pc.list_parent_indices(texts).filter(is_value).to_numpy()] = True
        return mask

    def slower_than(self, latency_us: float) -> Bools:
        """Return which took longer."""
        return self.answers["latency_us"].cast(pa.float64()).fill_null(0.0).to_numpy() > latency_us

    def in_hours(self, hours: Ints) -> Bools:
        """Return which came in some hours, counted from 1970."""
        return np.isin(self.ts // HOUR, hours)

    def by_busy_people(self) -> Bools:
        """Return those of people with more requests in an hour or a day than anybody before."""
        mask = self.nothing()
        for length in (HOUR, DAY):
            _, index, counts = np.unique(
                np.column_stack([self.person, self.ts // length]),
                axis=0,
                return_inverse=True,
                return_counts=True,
            )
            requests_of_visit = counts[index.ravel()]
            limit = requests_of_visit[~self.is_after].max(initial=0)
            mask |= self.is_after & (requests_of_visit > limit) & (limit > 0)
        return np.isin(self.person, self.person[mask])

    def of_new_versions(self) -> Bools:
        """Return those of versions that answered nobody before the fall."""
        versions, _ = encode_values(
            pc.fill_null(pc.coalesce(self.answers["assigned_version"], self.answers["model"]), "")
        )
        return ~np.isin(versions, versions[~self.is_after])

    def with_changed_items(self) -> Bools:
        """Return those with an item whose profile came since the fall began."""
        is_profile = pc.equal(self.events["type"], "item")
        is_late = pa.array(micros(self.events["ts"]) >= self.since)
        items = self.events["item_id"].filter(pc.and_(is_profile, is_late)).drop_null()
        return self.have("items", pc.unique(items).to_pylist())

    def from_devices_without(self, type_: str, field: str) -> Bools:
        """Return those from devices on which a field is missing more often than before."""
        is_person = pc.fill_null(pc.not_equal(self.events["agent"], "bot"), True)
        events = self.events.filter(pc.and_(pc.equal(self.events["type"], type_), is_person))
        is_missing = pc.is_null(events[field]).to_numpy().astype(np.float64)
        is_after = micros(events["ts"]) >= self.since
        device, names = encode_values(pc.fill_null(events["device"], ""))

        def rise(selection: Bools) -> float:
            after = is_missing[selection & is_after]
            before = is_missing[selection & ~is_after]
            return float(after.mean() - before.mean()) if len(after) and len(before) else 0.0

        # A device takes part if the field is lost on it at least half as often as on all.
        limit = max(rise(np.ones(len(device), bool)) / 2, 1e-9)
        lost_on = [name for code, name in enumerate(names) if rise(device == code) >= limit]
        return self.have("device", lost_on)

    def explain(self, mask: Bools) -> Explained:
        """Return how much of the fall the requests of a mask explain."""
        all_falls = self._falls
        rest_falls = self._compute_falls(~mask)
        share = 1.0 - rest_falls[0] / all_falls[0] if all_falls[0] > 0 else np.nan
        return Explained(
            float(share),
            bool(np.mean(rest_falls[1:] < all_falls[0]) >= CONFIDENCE),
            bool(np.mean(rest_falls[1:] > 0) >= CONFIDENCE),
            int((mask & self.is_after).sum()),
            int(self.is_after.sum()),
        )

    @cached_property
    def _falls(self) -> Floats:
        return self._compute_falls(np.ones(len(self.ts), bool))

    def _compute_falls(self, selection: Bools) -> Floats:
        """Return the fall of some requests, and that of each draw of people; NaN of too few."""
        cell = 2 * self.is_treated + self.is_after  # before and after: of the control, of the model
        group = self.person % GROUPS
        sums = np.zeros((2, GROUPS, 4))
        for total, values in zip(sums, (self.hits, self.shown), strict=True):
            np.add.at(total, (group[selection], cell[selection]), values[selection])
        is_used = np.array([self.has_control, self.has_control, True, True])
        if (sums[0].sum(axis=0)[is_used] < HITS_MIN).any():
            return np.full(1 + DRAWS, np.nan)
        rng = np.random.default_rng(0)  # the same people for each cause
        weights = np.vstack([np.ones(GROUPS), rng.poisson(1.0, (DRAWS, GROUPS))])
        hits = weights @ sums[0]
        shown = weights @ sums[1]
        log_rates = np.log((hits + 1e-9) / (shown + 1e-9))
        falls = log_rates[:, 2] - log_rates[:, 3]
        return falls - (log_rates[:, 0] - log_rates[:, 1]) if self.has_control else falls


def count_requests(
    events: pa.Table,
    records: pa.Table | None,
    criteria: RetrainCriteria,
    *,
    reference_from: int,
    since: int,
    denominator: str,
    attribution: int,
) -> Requests:
    """Return the answers of the watched arm and of its control.

    Args:
        events: with `EVENT_COLUMNS`, of the reference and of the fall.
        records: of the answers, with `RECORD_COLUMNS`; None without any.
        reference_from, since: when the reference and the fall began, microseconds.
        denominator, attribution: of the slot.
    """
    outcomes = match_outcomes(events, criteria.slot, attribution)
    table = outcomes.table
    kind = outcomes.kind[outcomes.event_row]

    def sum_kind(code: int) -> Floats:
        return np.bincount(outcomes.response_row[kind == code], minlength=table.num_rows).astype(
            np.float64
        )

    # Revenue falls with purchases, and a level with clicks.
    is_of_purchases = criteria.measure in ("conversion", "revenue")
    if is_of_purchases:
        hits = (sum_kind(PURCHASE) > 0).astype(np.float64)
        shown = np.ones(table.num_rows)
    else:
        hits = sum_kind(CLICK)
        slate_sizes = pc.fill_null(pc.list_value_length(table["items"]), 0).to_numpy()
        shown = sum_kind(IMPRESSION) if denominator == "impression" else slate_sizes.astype(float)
    answers = _join_records(table.filter(pa.array(outcomes.kind == RESPONSE)), records)
    rows = np.flatnonzero(outcomes.kind == RESPONSE)
    version = pc.coalesce(answers["assigned_version"], answers["model"])
    label = pc.fill_null(answers["arm"] if criteria.control else version, "")
    is_judged = pc.is_in(label, pa.array([criteria.arm, *filter(None, [criteria.control])]))
    is_judged = pc.and_(is_judged, pa.array(micros(answers["ts"]) >= reference_from))
    if criteria.experiment is not None:
        is_of_experiment = pc.fill_null(pc.equal(answers["experiment"], criteria.experiment), False)
        is_judged = pc.and_(is_judged, is_of_experiment)
    rows = rows[is_judged.to_numpy()]
    answers = answers.filter(is_judged)
    return Requests(
        since=since,
        answers=answers.combine_chunks(),
        ts=micros(answers["ts"]),
        person=encode_values(answers["person"])[0],
        is_treated=pc.equal(label.filter(is_judged), criteria.arm).to_numpy(),
        hits=hits[rows],
        shown=shown[rows],
        events=events,
        has_control=bool(criteria.control),
    )


def _join_records(answers: pa.Table, records: pa.Table | None) -> pa.Table:
    names = RECORD_COLUMNS[1:]
    if records is None:
        list_type = pa.list_(pa.string())
        types = {"latency_us": pa.int64(), "assigned_version": pa.string()}
        for name in names:
            column = pa.nulls(answers.num_rows, types.get(name, list_type))
            answers = answers.append_column(name, column)
        return answers
    record_index = pc.index_in(answers["request_id"], value_set=records["request_id"])
    joined = records.select(names).take(record_index)
    for name in names:
        answers = answers.append_column(name, joined[name])
    return answers
