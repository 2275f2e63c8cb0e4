"""Parity of candidate lists: logged ones against those recomputed from the lake."""

from functools import partial
from typing import TYPE_CHECKING

from tailorbird.config import Project
from tailorbird.platform.progress import Progress

if TYPE_CHECKING:
    from tailorbird.candidates.parity import ListReport
    from tailorbird.lake import Lake


def compare_logged_lists(
    project: Project, lake: "Lake", answers: int, progress: Progress
) -> "ListReport":
    """Recompute the candidate lists of `answers` logged answers, spread evenly over all."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.dataset as ds

    from tailorbird.candidates.batch import COLUMNS
    from tailorbird.candidates.parity import LOGGED_COLUMNS, ListReport, compare_lists, is_source
    from tailorbird.config.candidates import slots_contract
    from tailorbird.features.parity.recompute import ERASED_EXEMPTION
    from tailorbird.features.request import CANDIDATES_READ, unpack_sequences
    from tailorbird.stream import read_released

    row_ids = (
        lake.table("answers", ("producer", "offset"), where=ds.field("candidate_lists").is_valid())
        if answers > 0
        else None
    )
    if row_ids is None or not row_ids.num_rows:
        return ListReport()
    sample = row_ids.take(list(range(0, row_ids.num_rows, max(1, -(-row_ids.num_rows // answers)))))
    where = ds.field("offset").isin(sample["offset"]) & ds.field("producer").isin(
        sample["producer"]
    )
    rows = lake.table(
        "answers", ("schema_hash", "sequences", "degraded", *LOGGED_COLUMNS), where=where
    )
    is_erased = [ERASED_EXEMPTION in (names or ()) for names in rows["degraded"].to_pylist()]
    rows = rows.filter(pa.array([not erased for erased in is_erased]))
    main_sequences = _main_sequences(project, set(rows["schema_hash"].to_pylist()))
    recent_events = []
    for schema, packed in zip(
        rows["schema_hash"].to_pylist(), rows["sequences"].to_pylist(), strict=True
    ):
        logged = unpack_sequences(packed)
        of_features = logged.get(main_sequences.get(schema, ""), ([], [], []))
        items, _, times, *_ = logged.get(CANDIDATES_READ, of_features)
        recent_events.append((np.array(items, np.uint64), np.array(times, np.int64)))
    names = {name for names in rows["candidate_lists"].to_pylist() for name in names or ()}
    contract = slots_contract(project, sorted(name for name in names if is_source(name)))
    events = lake.table("events", COLUMNS).sort_by("p")
    known_position = read_released(lake.path).routed_position() - 1
    return compare_lists(
        contract,
        events,
        rows,
        recent_events,
        complete_until=known_position,
        progress=partial(progress, "logged lists"),
    )


def _main_sequences(project: Project, schemas: set[str]) -> dict[str, str]:
    """Return the name of the sequence that sources read, by schema."""
    from tailorbird.config.schemas import find_schema
    from tailorbird.errors import TailorbirdError

    names = {}
    for schema in schemas:
        try:
            sequences = find_schema(project, schema).sequences
        except TailorbirdError:
            continue  # `features verify` reports that its declarations are missing.
        if sequences:
            names[schema] = sequences[0]
    return names
