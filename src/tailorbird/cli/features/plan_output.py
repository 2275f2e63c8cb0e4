"""Output of a plan of changes: as JSON, and for people."""

from typing import TYPE_CHECKING, Any

from tailorbird.cli.output import console, print_table, this_command

if TYPE_CHECKING:
    from tailorbird.features.migration.plan import RecordChange, SampleMeasurements, SetComparison
    from tailorbird.features.state.eviction import EntityCounts


def describe_retraining(retraining_need: dict[str, Any]) -> list[str]:
    if not retraining_need["champion"]:
        return [f"There is no champion yet:  {this_command()} train"]
    if not retraining_need["retrain"]:
        return []
    notice = (
        f"{retraining_need['champion']} reads schema {retraining_need['reads']} and goes on "
        "answering with it, "
        "its state being kept up beside the new one."
    )
    return [notice, f"A model of the new schema:  {this_command()} train"]


def plan_to_dict(
    comparison: "SetComparison",
    entity_counts: "dict[str, EntityCounts] | None",
    sample_measurements: "SampleMeasurements | None",
    retraining_need: dict[str, Any],
) -> dict[str, Any]:
    from dataclasses import asdict

    applied_counts = entity_counts or {}
    sampled_counts = sample_measurements.entity_counts if sample_measurements is not None else {}
    records = [
        {
            "entity": record.entity,
            "state_before": record.state_bytes_before,
            "state_after": record.state_bytes_after,
            "reading_before": record.reading_bytes_before,
            "reading_after": record.reading_bytes_after,
            "entities": applied_counts[record.entity].entities
            if record.entity in applied_counts
            else None,
            "sampled": sampled_counts[record.entity].entities
            if record.entity in sampled_counts
            else None,
            "state_mean": _mean_state_bytes(record.entity, applied_counts),
            "state_mean_sampled": _mean_state_bytes(record.entity, sampled_counts),
        }
        for record in comparison.records
    ]
    build_estimate = None
    if sample_measurements is not None:
        least_s, likely_s, most_s = sample_measurements.seconds
        build_estimate = {
            "rows": sample_measurements.rows_total,
            "sample": sample_measurements.rows,
            "seconds": likely_s,
            "seconds_least": least_s,
            "seconds_most": most_s,
        }
    return {
        "schema": comparison.after,
        "applied": comparison.before,
        "changes": [asdict(change) for change in comparison.changes],
        "records": records,
        "bytes_before": _total_bytes(comparison, entity_counts, "before"),
        "bytes_after": _total_bytes(comparison, entity_counts, "after"),
        "proofs": [
            {
                "name": bound.name,
                "location": bound.location,
                "units_max": bound.largest_value_units,
                "events": bound.additions_until_overflow,
            }
            for bound in comparison.overflow_bounds
        ],
        "attached": list(comparison.backfilled_attributes),
        "build": build_estimate,
        **retraining_need,
    }


def _total_bytes(
    comparison: "SetComparison", entity_counts: "dict[str, EntityCounts] | None", field: str
) -> int | None:
    """Return the bytes of all records at full width, by the entities in the applied state.

    `field` is `before` or `after`: by the applied schema, or by the new one.
    """
    if entity_counts is None:
        return None
    return sum(
        getattr(record, field) * entity_counts[record.entity].entities
        for record in comparison.records
        if record.entity in entity_counts
    )


def _mean_state_bytes(entity: str, entity_counts: "dict[str, EntityCounts]") -> int | None:
    """Return the mean size of the stored state records."""
    return entity_counts[entity].state_bytes_mean if entity in entity_counts else None


def print_plan(
    comparison: "SetComparison",
    entity_counts: "dict[str, EntityCounts] | None",
    sample_measurements: "SampleMeasurements | None",
    retraining_need: dict[str, Any],
) -> None:
    out = console()
    if comparison.before == comparison.after:
        out.print(f"Nothing to do: schema {comparison.after} is applied.")
    else:
        print_changes(comparison)
    sampled_counts = sample_measurements.entity_counts if sample_measurements is not None else {}
    rows = [
        _record_row(record, entity_counts or {}, sampled_counts) for record in comparison.records
    ]
    number_titles = [
        "state at most",
        "then",
        "mean now",
        "in the sample",
        "reading now",
        "then ",
        "how many",
    ]
    print_table(
        "\nBytes of an entity's records",
        ["entity", *number_titles],
        rows,
        numeric_columns=number_titles,
    )
    if entity_counts is not None:
        total_before = _total_bytes(comparison, entity_counts, "before") or 0
        total_after = _total_bytes(comparison, entity_counts, "after") or 0
        out.print(
            f"Together at most {format_bytes(total_before)} now, {format_bytes(total_after)} then; "
            "empty "
            "parts of a "
            "record take no space."
        )
    if comparison.overflow_bounds:
        tightest_bound = min(
            comparison.overflow_bounds, key=lambda bound: bound.additions_until_overflow
        )
        out.print(
            f"No sum overflows: each of {len(comparison.overflow_bounds)} holds the largest value "
            f"{tightest_bound.additions_until_overflow:,} times or more "
            f"({tightest_bound.name}, {tightest_bound.location}: "
            f"{tightest_bound.largest_value_units:,} units)."
        )
    if comparison.before == comparison.after:
        return
    if comparison.backfilled_attributes:
        names = ", ".join(comparison.backfilled_attributes)
        out.print(
            f"Events routed so far do not carry {names}: it is filled in from the versions "
            "of the profiles, for all history."
        )
    if sample_measurements is not None:
        least_s, likely_s, most_s = sample_measurements.seconds
        estimate = (
            f"The new state takes about {_format_seconds(likely_s)} to build "
            f"({_format_seconds(least_s)} to "
            f"{_format_seconds(most_s)}): "
        )
        out.print(
            f"{estimate}{sample_measurements.rows_total:,} rows, by a sample of "
            f"{sample_measurements.rows:,} taken in "
            "just now."
        )
    else:
        out.print(
            "How long the new state takes to build was not measured: the lake has no rows, "
            "or --no-measure."
        )
    for line in describe_retraining(retraining_need):
        out.print(line)
    out.print(f"To apply it without stopping anything:  {this_command()} features apply")


def print_changes(comparison: "SetComparison") -> None:
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
    mean_bytes = (
        _mean_state_bytes(record.entity, entity_counts),
        _mean_state_bytes(record.entity, sampled_counts),
    )
    return (
        record.entity,
        record.state_bytes_before,
        record.state_bytes_after,
        *mean_bytes,
        record.reading_bytes_before,
        record.reading_bytes_after,
        _format_entity_count(record.entity, entity_counts, sampled_counts),
    )


def _format_entity_count(
    entity: str, entity_counts: "dict[str, EntityCounts]", sampled_counts: "dict[str, EntityCounts]"
) -> str:
    if entity in entity_counts:
        return f"{entity_counts[entity].entities:,}"
    return f"{sampled_counts[entity].entities:,} in the sample" if entity in sampled_counts else ""


def format_bytes(size: int) -> str:
    for unit_bytes, unit_name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit_bytes:
            return f"{size / unit_bytes:.1f} {unit_name}"
    return f"{size} bytes"


def _format_seconds(seconds: float) -> str:
    if seconds >= 90 * 60:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.1f} s"
