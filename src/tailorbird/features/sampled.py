"""Whether the state says what the lake says, for a sample: what a reader gets now against what a
backfill makes of the events.

    asked = read_sample(reader, requests, items)       from the state, each at its own (t, p)
    compare(features, asked, history.rows(requests_of(asked)), report)

`wanted` narrows the lake's events to those that a sample can depend on, so that a large lake is not
read whole where the features are about people and items alone; `features.bounded` reads them,
within a bound. Logged answers are held against the lake in `features.recompute`; the loop that does
it all the time is `features.watch`.
"""

from collections.abc import Collection
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.events.schema import TIME
from tailorbird.features.backfill import BackfilledRows, Requests
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.lanes import sources_of
from tailorbird.features.layout import EntityLayout
from tailorbird.features.positions import joined
from tailorbird.features.read import Reader
from tailorbird.features.recompute import Difference, Excused, ParityReport, empty_report, unequal
from tailorbird.features.request import ReadRequest, Rows
from tailorbird.lake import Lake
from tailorbird.stream import read_released

_CONTEXT = ("device", "country")


@dataclass(frozen=True)
class Asked:
    """A request with the items that it asked for, and what was read."""

    request: ReadRequest
    items: tuple[str, ...]
    rows: Rows


def read_sample(reader: Reader, requests: Ids[ReadRequest], items: Ids[Ids[str]]) -> list[Asked]:
    """Read each request with its items. Raises NotReadyError while the state is being built."""
    return [
        Asked(request, tuple(some), reader.read(request, list(some)))
        for request, some in zip(requests, items, strict=True)
    ]


@dataclass(frozen=True)
class Sample:
    """People as they were seen in events, with two items each: what they had there, and another."""

    requests: list[ReadRequest]
    items: list[tuple[str, ...]]


def draw_sample(lake: Lake, count: int, *, now: int, seed: int = 0) -> Sample:
    """Draw `count` events of people evenly from the lake: their persons, sessions and context, to
    be read `now`.
    """
    end = max(read_released(lake.path).of_routed(), 1)
    drawn = (
        np.random.default_rng(seed).integers(1, end, 4 * count)
        if end > 1
        else np.zeros(0, np.int64)
    )
    columns = (
        "person",
        "session_id",
        "device",
        "country",
        "local_hour",
        "query",
        "item_id",
        "items",
    )
    where = ds.field("p").isin(pa.array(np.unique(drawn))) & ds.field("person").is_valid()
    rows = lake.table("events", columns, where).slice(0, count).to_pylist()
    seen = [row["item_id"] or (row["items"] or [None])[0] for row in rows]
    known = [item for item in seen if item is not None] or ["-"]
    requests = [
        ReadRequest(
            row["person"],
            None,
            row["session_id"],
            row["device"],
            row["country"],
            row["local_hour"],
            now,
            row["query"],
        )
        for row in rows
    ]
    items = [
        tuple(dict.fromkeys((item or known[0], known[place % len(known)])))
        for place, item in enumerate(reversed(seen))
    ]
    return Sample(requests, items)


def requests_of(asked: Ids[Asked]) -> Requests:
    """The same requests as a backfill takes them, each at the (t, p) at which it was read."""
    lengths = [len(one.items) for one in asked]
    return Requests(
        t=np.array([one.rows.t for one in asked], np.int64),
        p=joined([one.rows.positions or one.rows.p for one in asked]),
        person=[one.rows.person for one in asked],
        session_id=[one.request.session_id for one in asked],
        device=[one.request.device for one in asked],
        country=[one.request.country for one in asked],
        local_hour=[one.request.local_hour for one in asked],
        query=[one.request.query for one in asked],
        position=[one.request.position for one in asked],
        row_request=np.repeat(np.arange(len(asked)), lengths),
        row_item=[item for one in asked for item in one.items],
    )


def wanted(features: FeatureSet, requests: Requests) -> ds.Expression:
    """Which rows of the lake's `events` the values of these requests can depend on: for
    `Lake.table(…, where=…)`.
    """
    sure, lists = wanted_parts(features, requests)
    return sure if lists is None else sure | lists


def wanted_parts(
    features: FeatureSet, requests: Requests, entities: Collection[int] | None = None
) -> tuple[ds.Expression, ds.Expression | None]:
    """`wanted` in two: what counts whatever it shows; and what shows several items, and counts
    where one of the requests' is among them.

    Args:
        entities: for these alone, by index.
    """
    people, items = texts(requests.person), texts(requests.row_item)
    asked = {
        "person": people,
        **{name: texts(getattr(requests, name)) for name in (*_CONTEXT, "session_id")},
    }
    known = ds.field("p") <= int(requests.p.max(initial=0))
    sure: list[ds.Expression] = []
    lists: list[ds.Expression] = []
    for one in features.layout.entities:
        if entities is not None and one.index not in entities:
            continue
        part = _of_entity(one, asked)
        since = _reach(one)
        if since is not None and len(requests.t):
            part = part & (ds.field("ts") >= pa.scalar(max(0, int(requests.t.min()) - since), TIME))
        if "item" in one.entity.fields:
            lists.append(part & ds.field("items").is_valid())
            part = part & ds.field("item_id").isin(items)
        sure.append(part)
        if one.profile is not None:
            subject = (
                ds.field("item_id").isin(items)
                if one.profile.type == "item"
                else ds.field("user_id").isin(people)
            )
            sure.append((ds.field("type") == one.profile.type) & subject)
    either = known & reduce(or_, sure) if sure else known
    return either, known & reduce(or_, lists) if lists else None


def about_whole_groups(features: FeatureSet) -> list[str]:
    """The columns that depend on everybody's events: about everyone, a category, a query; not
    affordable on a huge lake.
    """
    return depending(
        features, {one.index for one in features.layout.entities if not is_narrow(one)}
    )


def depending(features: FeatureSet, entities: Collection[int]) -> list[str]:
    """The columns that depend on any of these entities, by index."""
    parts: dict[int, set[int]] = {}
    for (entity, _), other in features.composite_spots.items():
        parts.setdefault(entity, set()).add(other.entity)
    chosen = set(entities)
    found = {
        step.name
        for step in features.layout.steps
        if any(chosen & {spot.entity, *parts.get(spot.entity, ())} for spot in step.spots)
    }
    for name in features.layout.derived_order:
        step = next(step for step in features.layout.steps if step.name == name)
        if step.expression is not None and any(
            other in found for other, _ in step.expression.names
        ):
            found.add(name)
    return [step.name for step in features.layout.steps if step.name in found]


def compare(
    features: FeatureSet,
    asked: Ids[Asked],
    found: BackfilledRows,
    report: ParityReport | None = None,
    *,
    excused: Excused | None = None,
    examples: int = 20,
) -> ParityReport:
    """Count, by column, the values that were read otherwise than the lake says; adds to `report`
    where one is given.

    `found` may have fewer columns than were read: only those are compared. Values that are
    `excused` are counted apart.
    """
    report = empty_report(features) if report is None else report
    report.answers += len(asked)
    owner = np.repeat(np.arange(len(asked)), [len(one.items) for one in asked])
    items = [item for one in asked for item in one.items]
    for names, kept, made, read in (
        (features.numeric, found.numeric_names, found.numeric, [one.rows.numeric for one in asked]),
        (
            features.categorical,
            found.categorical_names,
            found.categorical,
            [one.rows.categorical for one in asked],
        ),
    ):
        values = _chosen(np.concatenate(read), names, kept) if read else made
        differ = unequal(values, made)
        for column, name in enumerate(kept):
            report.add_compared(name, len(made))
            wrong = np.flatnonzero(differ[:, column])
            for row in wrong if excused is None else excused.left(name, wrong, report):
                rows = asked[owner[row]].rows
                pair = values[row, column].item(), made[row, column].item()
                report.add_difference(
                    Difference(
                        name,
                        "",
                        items[row],
                        *pair,
                        rows.person or "",
                        rows.t,
                        rows.p,
                        rows.positions,
                    ),
                    examples,
                )
    for index, one in enumerate(asked):
        for name, sequence in found.sequences.items():
            report.add_compared(name, 1)
            read, made = one.rows.sequences[name].lists(), sequence.of(index).lists()
            if read != made and not (excused is not None and excused.is_request_exempt(name, index, report)):
                rows = one.rows
                report.add_difference(
                    Difference(
                        name, "", "", read, made, rows.person or "", rows.t, rows.p, rows.positions
                    ),
                    examples,
                )
    return report


def _chosen(values: np.ndarray, names: Ids[str], kept: Ids[str]) -> np.ndarray:
    return (
        values
        if tuple(names) == tuple(kept)
        else values[:, [list(names).index(name) for name in kept]]
    )


def texts(column: object) -> pa.Array:
    """The different texts of a column, as values for `isin`."""
    if column is None:
        return pa.array([], pa.string())
    values = (
        column.combine_chunks()
        if isinstance(column, pa.ChunkedArray)
        else pa.array(column, pa.string())
    )  # type: ignore[arg-type]
    return values.unique().drop_null()


def is_narrow(one: EntityLayout) -> bool:
    """Whether an entity is about a person, an item or a session, so that few events are of any one."""
    return bool({"user", "item", "session"} & set(one.entity.fields))


def _of_entity(one: EntityLayout, asked: dict[str, pa.Array]) -> ds.Expression:
    """The events that may count for the entities of this kind that are asked about, whatever item
    they are of.
    """
    types = sorted({name for source in sources_of(one) for name in source.types})
    part = ds.field("type").isin(pa.array(types, pa.string()))
    for name in one.entity.fields:
        column = {"user": "person", "session": "session_id"}.get(name, name)
        if column in asked:
            part = part & ds.field(column).isin(asked[column])
    return part


def _reach(one: EntityLayout) -> int | None:
    """How far back, in microseconds, events can count; None: to the beginning."""
    if one.lasts or one.sequences or one.firsts or one.first_values:
        return None
    spans = [ring.hop * (ring.tiles + 1) for ring in (*one.rings, *one.sketches)]
    return max(spans, default=0)
