"""Which profiles say no more than when they are dated to, and not when anybody knew what they say.

A table of users that was exported today and is imported by the day of each sign-up gives everybody
one profile, valid from that day on: with what the table says today. Who left in the end stands in
it from the beginning. An attribute of which some have several times is one of changes, and says
itself what was known when; so does a sender who was there, and whoever says when the profile came
in. It is the same with items.
"""

from collections import defaultdict
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tailorbird.events import HOUR, micros
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.lake.etl import PAST_PARTITIONS

LOOKED_AT = (
    "type",
    "ts",
    "ts_original",
    "sent_at",
    "received_at",
    "user_id",
    "timeless",
    "raw_partition",
)
CHANGED = (
    0.01  # of those who have an attribute: so many of several times are no chance, but a history
)
_IDS = {"user": "user_id", "item": "item_id"}


def dated_back(events: pa.Table, of: str = "user") -> tuple[npt.NDArray[np.bool_], frozenset[str]]:
    """The profiles that were imported with a time, of which nobody said when they came in, with an
    attribute that is no history; and which attributes are none.

    Args:
        events: `LOOKED_AT` of `events.schema.ROUTED`, and `properties`, without which no column
            reads a profile; for items their id.
        of: "user" or "item".

    Returns:
        Shape (n,); false for all other events, and for profiles of attributes alone of which
        `CHANGED` of those who have them have several times. The names of the other attributes.
    """
    doubtful = pc.and_(
        pc.equal(events["type"], of), pc.is_in(events["raw_partition"], pa.array(PAST_PARTITIONS))
    )
    # What was imported without a time is of the import; of what says no time of arrival, the time
    # that it is dated to stands for it.
    doubtful = pc.and_(
        doubtful, pc.and_(pc.is_valid(events["ts_original"]), pc.is_null(events["sent_at"]))
    )
    doubtful = pc.and_(
        doubtful, pc.equal(pc.coalesce(events["received_at"], events["ts"]), events["ts"])
    )
    return _no_history(events, of, doubtful)


def came_later(events: pa.Table, of: str = "user") -> tuple[npt.NDArray[np.bool_], frozenset[str]]:
    """The same of profiles, however they came, that say themselves that they came in over an hour
    after the time that they are dated to.

    Whoever asks what was known when knows them from then on; who asks what holds at a time, as
    rankers do, believes the time.
    """
    late = micros(pc.coalesce(events["received_at"], events["ts"])) - micros(events["ts"]) > HOUR
    return _no_history(events, of, pc.and_(pc.equal(events["type"], of), pa.array(late)))


def _no_history(
    events: pa.Table, of: str, doubtful: pa.ChunkedArray
) -> tuple[npt.NDArray[np.bool_], frozenset[str]]:
    doubtful = pc.fill_null(
        pc.and_(doubtful, pc.invert(pc.fill_null(events["timeless"], False))), False
    )
    found = doubtful.to_numpy().astype(bool)
    if not found.any() or "properties" not in events.column_names:
        return np.zeros(len(found), bool), frozenset()
    some = events.select([_IDS[of], "ts", "properties"]).filter(doubtful)
    found[found], names = _without_history(
        some.select([_IDS[of], "ts"]), some["properties"].to_pylist()
    )
    return found, names


def told_of_dated_back(
    lake: Lake, features: FeatureSet, of_what: Sequence[str] = ("user", "item")
) -> list[tuple[str, str]]:
    """Of "users" and "items", why features that read their profiles may know more than was known at
    the time that these are dated to.

    Of profiles that were imported and do not say when they came in; and of those of users that came
    in later. Rankers believe the time.
    """
    found = []
    for of, read in (("user", features.user_attributes), ("item", features.item_attributes)):
        if of not in of_what or not read or not lake.exists("events"):
            continue
        profiles = lake.table(
            "events", [*LOOKED_AT, "item_id", "properties"], ds.field("type") == of
        )
        asked = [
            (
                dated_back(profiles, of),
                f"are the one that was imported of their {of}, and nobody said when it came in",
            )
        ]
        if of == "user" and len(profiles):
            later = came_later(profiles)
            if np.mean(later[0]) >= CHANGED:  # a few come late to everybody
                asked.append((later, "came in over an hour after the time that they are dated to"))
        for (doubted, names), what in asked:
            if told := [name for name in read if name in names]:
                many = f"{np.count_nonzero(doubted):,} of {profiles.num_rows:,} profiles {what}"
                since = "counts from the time that it is dated to, and must have been known then"
                found.append(
                    (f"{of}s", f"{many}: what features read of it ({', '.join(told)}) {since}")
                )
    return found


def without(texts: pa.ChunkedArray, rows: npt.NDArray[np.bool_], names: frozenset[str]) -> pa.Array:
    """Profiles as JSON, of some rows without the attributes that are called so."""
    known: dict[str | None, str | None] = {None: None}
    told = texts.filter(pa.array(rows)).to_pylist()
    for text in told:
        if text not in known:
            kept = {name: value for name, value in _attributes(text).items() if name not in names}
            known[text] = msgspec.json.encode(kept).decode()
    return pc.replace_with_mask(
        texts.combine_chunks(), pa.array(rows), pa.array([known[text] for text in told], texts.type)
    )


_attributes = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _without_history(
    rows: pa.Table, properties: Sequence[str | None]
) -> tuple[npt.NDArray[np.bool_], frozenset[str]]:
    """Which rows have an attribute that hardly anybody has of several times, and which these are;
    `rows`: whose they are, and when.
    """
    having: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(properties):
        for name in _attributes(text) if text else ():
            having[name].append(row)
    found, names = np.zeros(len(rows), bool), set[str]()
    whose, ts = rows.column_names
    for name, places in having.items():
        times = (
            rows.take(pa.array(places))
            .group_by(whose)
            .aggregate([(ts, "count_distinct")])[f"{ts}_count_distinct"]
        )
        if np.mean(times.to_numpy() > 1) < CHANGED:
            found[places] = True
            names.add(name)
    return found, frozenset(names)
