"""The part of `tailorbird features verify` that is about lists of candidates."""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from tailorbird.cli.output import Report, console, print_table

if TYPE_CHECKING:
    from tailorbird.candidates.parity import ListReport
    from tailorbird.config import Project
    from tailorbird.lake import Lake

_EXPLAINED = 5


def compare_logged_lists(
    project: "Project", lake: "Lake", answers: int, progress: Report
) -> "ListReport":
    """Recompute the lists that logged answers read, of `answers` of them, spread evenly over all."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.dataset as ds

    from tailorbird.candidates.batch import COLUMNS
    from tailorbird.candidates.parity import LOGGED, ListReport, compare_lists, is_source
    from tailorbird.config.candidates import slots_contract
    from tailorbird.features.recompute import UNLINKED
    from tailorbird.features.request import unpack_sequences
    from tailorbird.stream import read_released

    places = (
        lake.table("answers", ("producer", "offset"), where=ds.field("candidate_lists").is_valid())
        if answers > 0
        else None
    )
    if places is None or not places.num_rows:
        return ListReport()
    chosen = places.take(list(range(0, places.num_rows, max(1, -(-places.num_rows // answers)))))
    where = ds.field("offset").isin(chosen["offset"]) & ds.field("producer").isin(
        chosen["producer"]
    )
    rows = lake.table("answers", ("schema_hash", "sequences", "degraded", *LOGGED), where=where)
    erased = [UNLINKED in (names or ()) for names in rows["degraded"].to_pylist()]
    rows = rows.filter(pa.array([not gone for gone in erased]))
    main = _main_sequences(project, set(rows["schema_hash"].to_pylist()))
    recent = []
    for schema, packed in zip(
        rows["schema_hash"].to_pylist(), rows["sequences"].to_pylist(), strict=True
    ):
        items, _, times, *_ = unpack_sequences(packed).get(main.get(schema, ""), ([], [], []))
        recent.append((np.array(items, np.uint64), np.array(times, np.int64)))
    names = {name for names in rows["candidate_lists"].to_pylist() for name in names or ()}
    contract = slots_contract(project, sorted(name for name in names if is_source(name)))
    events = lake.table("events", COLUMNS).sort_by("p")
    known = read_released(lake.path).routed_position() - 1
    return compare_lists(
        contract,
        events,
        rows,
        recent,
        complete_until=known,
        progress=partial(progress, "logged lists"),
    )


def _main_sequences(project: "Project", schemas: set[str]) -> dict[str, str]:
    """Return by schema the name of the sequence that sources read."""
    from tailorbird.config.schemas import find_schema
    from tailorbird.errors import TailorbirdError

    found = {}
    for schema in schemas:
        try:
            sequences = find_schema(project, schema).sequences
        except TailorbirdError:
            continue  # `features verify` says that it is no longer kept
        if sequences:
            found[schema] = sequences[0]
    return found


def plain_lists(report: "ListReport") -> dict[str, Any]:
    """Return the report as JSON."""
    return asdict(report)


def print_lists(report: "ListReport") -> None:
    """Print the report."""
    out = console()
    unequal = sum(report.unequal.values())
    out.print(
        f"{report.lists:,} lists of candidates in {report.responses:,} answers compared, "
        f"{unequal:,} unequal."
    )
    if report.unequal:
        print_table(
            "Unequal, by source", ["source", "lists"], list(report.unequal.items()), right=["lists"]
        )
    for one in report.examples[:_EXPLAINED]:
        out.print(f"  {one.source} of request {one.request_id}, tables at {one.p:,}")
