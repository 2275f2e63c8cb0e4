"""Output of a plan of changes: as JSON, and for people."""

from typing import TYPE_CHECKING, Any

from tailorbird.cli.output import console, print_table, this_command

if TYPE_CHECKING:
    from tailorbird.features.migration.plan import Comparison, RecordChange, SampleMeasurements
    from tailorbird.features.state.eviction import EntityCounts


def describe_retraining(retrain: dict[str, Any]) -> list[str]:
    if not retrain["champion"]:
        return [f"There is no champion yet:  {this_command()} train"]
    if not retrain["retrain"]:
        return []
    notice = (
        f"{retrain['champion']} reads schema {retrain['reads']} and goes on answering with it, "
        "its state being kept up beside the new one."
    )
    return [notice, f"A model of the new schema:  {this_command()} train"]


def plan_to_dict(
    comparison: "Comparison",
    entity_counts: "dict[str, EntityCounts] | None",
    measured: "SampleMeasurements | None",
    retrain: dict[str, Any],
) -> dict[str, Any]:
    from dataclasses import asdict

    now, sampled_counts = (
        entity_counts or {},
        measured.entity_counts if measured is not None else {},
    )
    records = [
        {
            **asdict(record),
            "entities": now[record.entity].entities if record.entity in now else None,
            "sampled": sampled_counts[record.entity].entities
            if record.entity in sampled_counts
            else None,
            "state_mean": _mean(record.entity, now),
            "state_mean_sampled": _mean(record.entity, sampled_counts),
        }
        for record in comparison.records
    ]
    build = None
    if measured is not None:
        least, likely_s, most_s = measured.seconds
        build = {
            "rows": measured.rows_total,
            "sample": measured.rows,
            "seconds": likely_s,
            "seconds_least": least,
            "seconds_most": most_s,
        }
    return {
        "schema": comparison.after,
        "applied": comparison.before,
        "changes": [asdict(change) for change in comparison.changes],
        "records": records,
        "bytes_before": _total(comparison, entity_counts, "before"),
        "bytes_after": _total(comparison, entity_counts, "after"),
        "proofs": [asdict(proof) for proof in comparison.proofs],
        "attached": list(comparison.attached_attributes),
        "build": build,
        **retrain,
    }


def _total(
    comparison: "Comparison", entity_counts: "dict[str, EntityCounts] | None", field: str
) -> int | None:
    """Return the bytes of all records at full width, by the entities in the applied state."""
    if entity_counts is None:
        return None
    return sum(
        getattr(record, field) * entity_counts[record.entity].entities
        for record in comparison.records
        if record.entity in entity_counts
    )


def _mean(entity: str, entity_counts: "dict[str, EntityCounts]") -> int | None:
    """Return the mean size of the stored state records."""
    return entity_counts[entity].state_bytes_mean if entity in entity_counts else None


def print_plan(
    comparison: "Comparison",
    entity_counts: "dict[str, EntityCounts] | None",
    measured: "SampleMeasurements | None",
    retrain: dict[str, Any],
) -> None:
    out = console()
    if comparison.before == comparison.after:
        out.print(f"Nothing to do: schema {comparison.after} is applied.")
    else:
        print_changes(comparison)
    sampled_counts = measured.entity_counts if measured is not None else {}
    rows = [
        _record_row(record, entity_counts or {}, sampled_counts) for record in comparison.records
    ]
    numbers = [
        "state at most",
        "then",
        "mean now",
        "in the sample",
        "reading now",
        "then ",
        "how many",
    ]
    print_table("\nBytes of an entity's records", ["entity", *numbers], rows, right=numbers)
    if entity_counts is not None:
        total_before, total_after = (
            _total(comparison, entity_counts, "before") or 0,
            _total(comparison, entity_counts, "after") or 0,
        )
        out.print(
            f"Together at most {format_bytes(total_before)} now, {format_bytes(total_after)} then; empty "
            "parts of a "
            "record take no space."
        )
    if comparison.proofs:
        tightest_proof = min(comparison.proofs, key=lambda proof: proof.events)
        out.print(
            f"No sum overflows: each of {len(comparison.proofs)} holds the largest value "
            f"{tightest_proof.events:,} times or more "
            f"({tightest_proof.name}, {tightest_proof.location}: {tightest_proof.units_max:,} units)."
        )
    if comparison.before == comparison.after:
        return
    if comparison.attached_attributes:
        names = ", ".join(comparison.attached_attributes)
        out.print(
            f"Events routed so far do not carry {names}: it is filled in from the versions "
            "of the profiles, for all history."
        )
    if measured is not None:
        least_s, likely_s, most_s = measured.seconds
        estimate = (
            f"The new state takes about {_seconds(likely_s)} to build ({_seconds(least_s)} to "
            f"{_seconds(most_s)}): "
        )
        out.print(
            f"{estimate}{measured.rows_total:,} rows, by a sample of {measured.rows:,} taken in "
            "just now."
        )
    else:
        out.print(
            "How long the new state takes to build was not measured: the lake has no rows, "
            "or --no-measure."
        )
    for line in describe_retraining(retrain):
        out.print(line)
    out.print(f"To apply it without stopping anything:  {this_command()} features apply")


def print_changes(comparison: "Comparison") -> None:
    title = f"Schema {comparison.before or '(none)'} → {comparison.after}"
    rows = [
        (change.change, change.name, change.entity, change.location, change.changed_fields)
        for change in comparison.changes
    ]
    print_table(title, ["change", "column", "of", "line", "what"], rows)
    if not comparison.changes:
        console().print(
            "No column changes, but their order or the engine does, and with it the records."
        )


def _record_row(
    record: "RecordChange",
    entity_counts: "dict[str, EntityCounts]",
    sampled_counts: "dict[str, EntityCounts]",
) -> tuple[object, ...]:
    mean_bytes = _mean(record.entity, entity_counts), _mean(record.entity, sampled_counts)
    return (
        record.entity,
        record.state_before,
        record.state_after,
        *mean_bytes,
        record.reading_before,
        record.reading_after,
        _count(record.entity, entity_counts, sampled_counts),
    )


def _count(
    entity: str, entity_counts: "dict[str, EntityCounts]", sampled_counts: "dict[str, EntityCounts]"
) -> str:
    if entity in entity_counts:
        return f"{entity_counts[entity].entities:,}"
    return f"{sampled_counts[entity].entities:,} in the sample" if entity in sampled_counts else ""


def format_bytes(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def _seconds(seconds: float) -> str:
    if seconds >= 90 * 60:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.1f} s"
