"""Parity of candidate lists: logged ones against those recomputed from the lake."""

from functools import partial
from typing import TYPE_CHECKING

from tailorbird.config import Project
from tailorbird.platform.progress import Progress

if TYPE_CHECKING:
    from tailorbird.candidates.parity import ListReport
    from tailorbird.lake import Lake


def compare_logged_lists(
    project: Project, lake: "Lake", responses_max: int, progress: Progress
) -> "ListReport":
    """Recompute the candidate lists of `responses_max` logged answers, spread evenly over all."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.dataset as ds

    from tailorbird.candidates.batch import EVENT_COLUMNS
    from tailorbird.candidates.parity import LOGGED_COLUMNS, ListReport, compare_lists, is_source
    from tailorbird.config.candidates import slots_contract
    from tailorbird.features.parity.recompute import ERASED_EXEMPTION
    from tailorbird.features.request import CANDIDATES_KEY, unpack_sequences
    from tailorbird.stream import read_released_positions

    response_ids = (
        lake.table("answers", ("producer", "offset"), where=ds.field("candidate_lists").is_valid())
        if responses_max > 0
        else None
    )
    if response_ids is None or not response_ids.num_rows:
        return ListReport()
    sampled_ids = response_ids.take(
        list(range(0, response_ids.num_rows, max(1, -(-response_ids.num_rows // responses_max))))
    )
    is_sampled = ds.field("offset").isin(sampled_ids["offset"]) & ds.field("producer").isin(
        sampled_ids["producer"]
    )
    responses = lake.table(
        "answers", ("schema_hash", "sequences", "degraded", *LOGGED_COLUMNS), where=is_sampled
    )
    erased_flags = [
        ERASED_EXEMPTION in (reasons or ()) for reasons in responses["degraded"].to_pylist()
    ]
    responses = responses.filter(pa.array([not erased for erased in erased_flags]))
    sequence_name_by_schema = _main_sequences(project, set(responses["schema_hash"].to_pylist()))
    recent_events = []
    for schema, packed_sequences in zip(
        responses["schema_hash"].to_pylist(), responses["sequences"].to_pylist(), strict=True
    ):
        sequence_by_name = unpack_sequences(packed_sequences)
        main_sequence = sequence_by_name.get(sequence_name_by_schema.get(schema, ""), ([], [], []))
        items, _, times, *_ = sequence_by_name.get(CANDIDATES_KEY, main_sequence)
        recent_events.append((np.array(items, np.uint64), np.array(times, np.int64)))
    list_names = {
        name for names in responses["candidate_lists"].to_pylist() for name in names or ()
    }
    contract = slots_contract(project, sorted(name for name in list_names if is_source(name)))
    events = lake.table("events", EVENT_COLUMNS).sort_by("p")
    complete_position = read_released_positions(lake.path).routed_position() - 1
    return compare_lists(
        contract,
        events,
        responses,
        recent_events,
        complete_until=complete_position,
        progress=partial(progress, "logged lists"),
    )


def _main_sequences(project: Project, schemas: set[str]) -> dict[str, str]:
    """Return the name of the sequence that sources read, by schema."""
    from tailorbird.config.schemas import find_schema
    from tailorbird.errors import TailorbirdError

    sequence_name_by_schema = {}
    for schema in schemas:
        try:
            sequences = find_schema(project, schema).sequences
        except TailorbirdError:
            continue  # `features verify` reports that its declarations are missing.
        if sequences:
            sequence_name_by_schema[schema] = sequences[0]
    return sequence_name_by_schema
