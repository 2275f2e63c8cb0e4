"""Training data from the lake: encoded events, items and logged responses, and the requests.

Logged responses give rows of what was shown (`training.dataset.dataset`). If too few of them have a
known outcome, what people chose gives requests, with the slot's candidates of that moment
(`training.dataset.clicks`). Later steps treat both alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import NotReadyError
from tailorbird.events import micros, parse_duration, to_iso
from tailorbird.features import FeatureSet
from tailorbird.features.offline.profile_join import JoinedEvents
from tailorbird.lake import Lake, time_filter
from tailorbird.models.interactions import History, Interactions
from tailorbird.ranking.policy.targets import is_amount_head, item_heads
from tailorbird.ranking.slot import Slot
from tailorbird.training.dataset.clicks import SamplingScheme
from tailorbird.training.dataset.codes import (
    INTERACTION_TYPES,
    IdVocabulary,
    encode_interactions,
    interaction_mask,
    seconds_viewed,
)
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.extra_labels import OutcomeIndex
from tailorbird.training.dataset.indexes import empty_items
from tailorbird.training.dataset.matrix import required_columns
from tailorbird.training.dataset.pre_visit import PRE_VISIT_KEY
from tailorbird.training.dataset.request_choice import RowSettings, choose_requests
from tailorbird.training.dataset.return_labels import PresenceIndex, return_targets

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TrainingData:
    """Loaded and encoded columns of the lake, and the requests.

    Attributes:
        events: all events that features may read, up to now.
        item_profiles: item profiles, all versions.
        person_vocabulary, item_vocabulary: codes of persons and items.
        dataset: the `Dataset` of all requests of the window, with their rows if they are logged
            responses, else with their positives alone.
        sampling_scheme: how requests are drawn, None for logged responses.
        source_note: which of the two was chosen and why, as a sentence.
        heads: all targets: the slot's, then those of other slots.
        attribution_us: the slot's attribution window, microseconds.
        complete_until: moment up to which the log is complete.
    """

    events: pa.Table
    item_profiles: pa.Table
    person_vocabulary: IdVocabulary
    item_vocabulary: IdVocabulary
    dataset: Dataset
    sampling_scheme: SamplingScheme | None
    source_note: str
    heads: tuple[str, ...]
    attribution_us: int
    complete_until: int

    @cached_property
    def events_with_profiles(self) -> pa.Table:
        """Return the events with the properties of their items, as candidate sources read them."""
        return add_profiles(self.events, self.item_profiles)

    @property
    def is_logged(self) -> bool:
        """Return whether the rows are logged responses."""
        return self.sampling_scheme is None

    @cached_property
    def history(self) -> History:
        """Return the interactions; for drawn requests, only those of the drawn event type."""
        return History(
            encode_interactions(
                self.events, self.person_vocabulary, self.item_vocabulary, self._interaction_types
            )
        )

    @property
    def interactions_by_type(self) -> dict[str, Interactions]:
        """Return the interactions of `history` by event type."""
        return {
            type_name: encode_interactions(
                self.events, self.person_vocabulary, self.item_vocabulary, (type_name,)
            )
            for type_name in self._interaction_types
        }

    @property
    def _interaction_types(self) -> Sequence[str]:
        return INTERACTION_TYPES if self.sampling_scheme is None else (self.sampling_scheme.type,)

    @property
    def label_window_us(self) -> int:
        """Return how long after a request its labels may change, microseconds.

        The drawn event occurs at the request itself, except where the request was moved to before
        the visit.
        """
        can_change = (
            self.is_logged
            or PRE_VISIT_KEY in self.dataset.provenance
            or any(len(outcomes) for outcomes in self._outcome_index_by_head.values())
        )
        return self.attribution_us if can_change else 0

    @cached_property
    def _outcome_index_by_head(self) -> dict[str, OutcomeIndex]:
        """Return the outcomes of all heads but the one that requests are drawn for."""
        extra_heads = [
            head
            for head in item_heads(self.heads)
            if self.sampling_scheme is not None and head != self.sampling_scheme.type
        ]
        return {head: self._outcome_index(head) for head in extra_heads}

    def _outcome_index(self, head: str) -> OutcomeIndex:
        head_events = self.events.filter(interaction_mask(self.events, (head,)))
        return OutcomeIndex(
            encode_interactions(head_events, self.person_vocabulary, self.item_vocabulary, (head,)),
            seconds_viewed(head_events) if is_amount_head(head) else None,
        )

    def add_extra_labels(self, requests: Dataset) -> Dataset:
        """Add the labels of extra heads to requests with their candidates."""
        if self.sampling_scheme is None:
            return requests
        extra_labels: dict[str, npt.NDArray] = {
            head: outcomes.total_amount(requests, self.attribution_us)
            if is_amount_head(head)
            else outcomes.has_outcome(requests, self.attribution_us)
            for head, outcomes in self._outcome_index_by_head.items()
        }
        # Other candidates were not seen, so a return label would say nothing about them: NaN.
        is_positive = requests.labels[self.sampling_scheme.type]
        for head, target in return_targets(self.heads).items():
            extra_labels[head] = np.where(
                is_positive,
                self._presence_index.label(target, requests.person_codes, requests.t)[
                    requests.request_index
                ],
                np.float32(np.nan),
            )
        return replace(requests, labels={**requests.labels, **extra_labels})

    @cached_property
    def _presence_index(self) -> PresenceIndex:
        return PresenceIndex(self.events, self.person_vocabulary, self.complete_until)


def load_training_data(
    lake: Lake,
    features: FeatureSet,
    slot: Slot,
    row_settings: RowSettings,
    *,
    other_features: Sequence[FeatureSet] = (),
) -> TrainingData:
    """Load the training data.

    Args:
        other_features: extra feature sets to compute, such as those of a champion with another
            schema.

    Raises:
        NotReadyError: the lake holds no event yet, or none that rows can be made of.
    """
    columns = list(
        dict.fromkeys(
            name
            for feature_set in (features, *other_features)
            for name in required_columns(feature_set)
        )
    )
    columns += ["experiment", "arm"] if row_settings.arm else []
    events = _sort_by_log_position(
        JoinedEvents(lake, features, *other_features).table(
            columns, time_filter(ts_to=row_settings.as_of)
        )
    )
    if not events.num_rows:
        raise _no_events_error(lake, row_settings.as_of)
    person_vocabulary = IdVocabulary.of(events["person"])
    item_vocabulary = IdVocabulary.of(events["item_id"], pc.list_flatten(events["items"]))
    items = _load_items(lake) if lake.exists("items") else empty_items()
    complete_until = min(row_settings.as_of - row_settings.lateness_us, log_end(events))
    dataset, sampling_scheme, source_note = choose_requests(
        lake=lake,
        events=events,
        person_vocabulary=person_vocabulary,
        item_vocabulary=item_vocabulary,
        slot=slot,
        row_settings=row_settings,
        complete_until=complete_until,
    )
    heads = tuple(dict.fromkeys((*slot.objective, *row_settings.extra_heads)))
    return _drop_unsettled_requests(
        TrainingData(
            events=events,
            item_profiles=items,
            person_vocabulary=person_vocabulary,
            item_vocabulary=item_vocabulary,
            dataset=dataset,
            sampling_scheme=sampling_scheme,
            source_note=source_note,
            heads=heads,
            attribution_us=parse_duration(slot.attribution),
            complete_until=complete_until,
        )
    )


def log_end(events: pa.Table) -> int:
    """Return the time just after the newest event, up to which an imported log may be complete."""
    is_dated = ~pc.fill_null(events["timeless"], False).to_numpy().astype(bool)
    return int(micros(events["ts"]).max(initial=0, where=is_dated)) + 1


def _drop_unsettled_requests(training_data: TrainingData) -> TrainingData:
    """Drop drawn requests whose extra labels may still change."""
    dataset = training_data.dataset
    if training_data.is_logged or not training_data.label_window_us:
        return training_data
    settled_requests = np.flatnonzero(
        dataset.t + training_data.label_window_us <= training_data.complete_until
    )
    if not len(settled_requests):
        problem = (
            f"what came of the {dataset.request_count:,} choices in the window is not known yet"
        )
        raise NotReadyError(
            problem,
            fix="import more history, shorten the slot's attribution, or train as of an earlier "
            "day: --as-of 2026-11-25",
        )
    return replace(training_data, dataset=dataset.take(settled_requests))


def _no_events_error(lake: Lake, as_of: int) -> NotReadyError:
    """Return the error for a lake without events to learn from."""
    # Reads a table instead of SQL, which cannot query an older version of the lake.
    if lake.exists("events") and lake.table("events", ["p"]).num_rows:
        return NotReadyError(
            f"the lake holds no event before {to_iso(as_of)[:16]}",
            where=str(lake.path),
            fix="a later --as-of, such as latest",
        )
    return NotReadyError(
        "the lake holds no event yet", where=str(lake.path), fix="tailorbird import FORMAT PATH"
    )


def _sort_by_log_position(rows: pa.Table) -> pa.Table:
    """Sort rows by log position, as codes and draws depend on the order."""
    log_position = rows["p"].to_numpy()
    return (
        rows
        if bool(np.all(log_position[1:] > log_position[:-1]))
        else rows.take(pa.array(np.argsort(log_position)))
    ).combine_chunks()


def _load_items(lake: Lake) -> pa.Table:
    names = ["id", "valid_from", "attributes", "timeless", "received_at"]
    return _sort_by_log_position(lake.table("items", [*names, "p"]))


def add_profiles(events: pa.Table, items: pa.Table) -> pa.Table:
    """Add the properties of item profiles, which the lake keeps in a table of their own."""
    if "properties" in events.column_names or "p" not in items.column_names:
        return events
    profile_row = pc.index_in(events["p"], value_set=items["p"].combine_chunks())
    return events.append_column(
        "properties", items["attributes"].combine_chunks().take(profile_row.combine_chunks())
    )
