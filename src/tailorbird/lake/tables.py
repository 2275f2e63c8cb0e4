"""The tables of the lake: columns, partitioning, and the columns with statistics.

The columns of `events` and `quarantine` are those of the routed log (`events.contract.schema`),
those of `answers` the fields of `events.answer_record.ResponseRecord`. `lake.write.etl` makes the
rows, `lake.delta.table` writes the files.

    table       rows                                                  fed by log
    events      accepted events, by day of `ts`                       routed
    quarantine  refused rows as received, with code and path          routed
    duplicates  raw rows that repeated an accepted one                routed
    users       each version of each user's profile                   routed
    items       each version of each item's profile                   routed
    answers     features, scores and propensities of each response    answers-<producer>
    commits     the ledger, for queries                               ledger

Only times and positions have statistics. Ids and free text must not be in the log of a table, where
a deletion does not reach them.
"""

from dataclasses import dataclass

import pyarrow as pa

from tailorbird.events.contract.schema import QUARANTINE, ROUTED, TIME_TYPE

DAY_FIELD = pa.field("day", pa.date32())  # of `ts`, UTC; in the file's path, not in the file

RESPONSES_SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("ts", TIME_TYPE),  # t: when the features were read
        ("p", pa.int64()),  # the routed position that they counted
        ("commit", pa.int64()),  # the worker's number for it
        ("schema_hash", pa.string()),
        ("person", pa.string()),
        ("user_id", pa.string()),
        ("anonymous_id", pa.string()),
        ("session_id", pa.string()),
        ("slot", pa.string()),
        ("experiment", pa.string()),
        ("arm", pa.string()),
        ("model", pa.string()),
        ("query", pa.string()),
        ("device", pa.string()),
        ("country", pa.string()),
        ("local_hour", pa.int8()),
        ("items", pa.list_(pa.string())),
        ("sources", pa.list_(pa.string())),
        ("propensities", pa.list_(pa.float64())),
        ("scores", pa.list_(pa.float32())),
        ("numeric", pa.list_(pa.float32())),  # row-major, items × numeric columns
        (
            "categorical",
            pa.list_(pa.int64()),
        ),  # row-major; the bits of uint64, which Delta does not know
        ("sequences", pa.binary()),  # MessagePack
        ("degraded", pa.list_(pa.string())),
        ("producer", pa.string()),
        ("offset", pa.int64()),  # in the producer's log
        (
            "positions",
            pa.list_(pa.int64()),
        ),  # where several workers keep the state, the p of each of its parts; else null
        ("formula", pa.string()),
        ("formula_version", pa.string()),
        (
            "assigned_version",
            pa.string(),
        ),  # the version that was to answer; another than `model` where it could not
        ("failure", pa.string()),  # why it could not: error, not_finite, breaker_open
        ("latency_us", pa.int64()),
        ("shadow", pa.string()),  # a version that scored in shadow
        ("shadow_scores", pa.list_(pa.float64())),  # its values of `items`
        ("candidate_sources", pa.list_(pa.string())),  # that had candidates
        (
            "candidate_counts",
            pa.list_(pa.int64()),
        ),  # of each of them: how many candidates came first from it
        (
            "values",
            pa.list_(pa.float64()),
        ),  # of `items`, by the model and the formula, before search and boosts
        ("candidate_lists", pa.list_(pa.string())),  # live sources whose lists were read
        (
            "candidate_digests",
            pa.list_(pa.int64()),
        ),  # of each list: a checksum of its items in their order
        (
            "candidate_positions",
            pa.list_(pa.int64()),
        ),  # of each list: the routed position that its tables went up to
        ("live", pa.list_(pa.float32())),  # row-major, items × columns that the model reads live
        ("referrer", pa.string()),
        ("joint_propensities", pa.list_(pa.float64())),  # of the slate down to each position
        ("teams", pa.list_(pa.string())),  # of an interleaved slate, the arm that picked each item
        ("click_probabilities", pa.list_(pa.float64())),  # of `items`, calibrated
        ("shadow_us", pa.int64()),  # that `shadow` took to score `items`
        ("champion_us", pa.int64()),  # that `model` took to score them again; 0: not timed
        ("user_vector", pa.list_(pa.float32())),  # along fixed directions; empty without a tower
    ]
)

PROFILES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("valid_from", TIME_TYPE),
        ("version", pa.string()),  # event_id of the profile event
        ("attributes", pa.string()),  # all its properties, as JSON with sorted keys
        ("timeless", pa.bool_()),
        ("p", pa.int64()),
        ("received_at", TIME_TYPE),
    ]
)

DUPLICATES_SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("raw_partition", pa.string()),
        ("raw_offset", pa.int64()),
        ("raw_row", pa.int32()),
        (
            "first_partition",
            pa.string(),
        ),  # of the raw row that was accepted; null if the lake found the repeat
        ("first_offset", pa.int64()),
        ("first_row", pa.int32()),
    ]
)

COMMITS_SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("version", pa.int64()),
        ("rows", pa.int64()),
        (
            "positions",
            pa.string(),
        ),  # JSON: log → the position behind the last row that this commit holds
        ("written_at", TIME_TYPE),
    ]
)


@dataclass(frozen=True)
class TableSpec:
    """A table's name, columns, partition column and the columns with statistics."""

    name: str
    schema: pa.Schema
    partition_column: str | None = None
    statistics_columns: tuple[str, ...] = ()
    # The columns by which files are sorted if `lake.sort` is "person".
    person_columns: tuple[str, ...] = ()

    @property
    def file_schema(self) -> pa.Schema:
        """The columns of the Parquet files."""
        return pa.schema([field for field in self.schema if field.name != self.partition_column])


def align_columns(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return rows with exactly these columns; columns added after they were written are null."""
    columns = [
        rows.column(field.name)
        if field.name in rows.column_names
        else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.table(columns, names=schema.names).cast(schema)


_SPECS = (
    TableSpec(
        "events",
        ROUTED.append(DAY_FIELD),
        partition_column="day",
        statistics_columns=("p", "ts", "received_at", "raw_offset"),
        person_columns=("person", "ts", "p"),
    ),
    TableSpec("quarantine", QUARANTINE, statistics_columns=("received_at", "raw_offset")),
    TableSpec("duplicates", DUPLICATES_SCHEMA, statistics_columns=("raw_offset",)),
    TableSpec("users", PROFILES_SCHEMA, statistics_columns=("p", "valid_from", "received_at")),
    TableSpec("items", PROFILES_SCHEMA, statistics_columns=("p", "valid_from", "received_at")),
    TableSpec("answers", RESPONSES_SCHEMA, statistics_columns=("ts", "p", "commit", "offset")),
    TableSpec("commits", COMMITS_SCHEMA, statistics_columns=("version", "written_at")),
)

TABLES: dict[str, TableSpec] = {spec.name: spec for spec in _SPECS}
