"""Backdated profiles: profiles dated earlier than their content was known.

A user table that is exported today and imported by sign-up day gives everybody one profile, valid
from that day but with today's content. Who churned in the end is then visible from the beginning.
An attribute with several dated values for some users is a history and trusted as such. So are
profiles sent by a running system, or with an arrival time. The same holds for items.
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
from tailorbird.lake.write.etl import PAST_PARTITIONS

PROFILE_COLUMNS = (
    "type",
    "ts",
    "ts_original",
    "sent_at",
    "received_at",
    "user_id",
    "timeless",
    "raw_partition",
)
# Share of entities with several dated values from which an attribute counts as a history.
CHANGED_SHARE_MIN = 0.01
_IDS = {"user": "user_id", "item": "item_id"}


def find_backdated_profiles(
    events: pa.Table, entity: str = "user"
) -> tuple[npt.NDArray[np.bool_], frozenset[str]]:
    """Find backdated profiles in imports without an arrival time.

    Args:
        events: `PROFILE_COLUMNS` of `events.contract.schema.ROUTED`, and `properties`, without
            which no column reads a profile; for items also their id.
        entity: "user" or "item".

    Returns:
        Mask of the backdated profiles, shape (n,), and the names of their attributes that are no
        history. A profile is backdated if it has such an attribute: one with several dated values
        for less than `CHANGED_SHARE_MIN` of its owners.
    """
    is_doubtful = pc.and_(
        pc.equal(events["type"], entity),
        pc.is_in(events["raw_partition"], pa.array(PAST_PARTITIONS)),
    )
    # An import without times is dated at the import. Without a stated arrival time, the time that
    # a profile is dated at stands for it.
    is_doubtful = pc.and_(
        is_doubtful, pc.and_(pc.is_valid(events["ts_original"]), pc.is_null(events["sent_at"]))
    )
    is_doubtful = pc.and_(
        is_doubtful, pc.equal(pc.coalesce(events["received_at"], events["ts"]), events["ts"])
    )
    return _mark_without_history(events, entity, is_doubtful)


def find_late_profiles(
    events: pa.Table, entity: str = "user"
) -> tuple[npt.NDArray[np.bool_], frozenset[str]]:
    """Find profiles that arrived more than an hour after the time they are dated at.

    Churn models use such profiles from their arrival on. Rankers ask for what holds at a time, and
    trust the date. Returns the same as `find_backdated_profiles`.
    """
    late = micros(pc.coalesce(events["received_at"], events["ts"])) - micros(events["ts"]) > HOUR
    return _mark_without_history(
        events, entity, pc.and_(pc.equal(events["type"], entity), pa.array(late))
    )


def _mark_without_history(
    events: pa.Table, entity: str, is_doubtful: pa.ChunkedArray
) -> tuple[npt.NDArray[np.bool_], frozenset[str]]:
    is_doubtful = pc.fill_null(
        pc.and_(is_doubtful, pc.invert(pc.fill_null(events["timeless"], False))), False
    )
    mask = is_doubtful.to_numpy().astype(bool)
    if not mask.any() or "properties" not in events.column_names:
        return np.zeros(len(mask), bool), frozenset()
    profiles = events.select([_IDS[entity], "ts", "properties"]).filter(is_doubtful)
    mask[mask], names = _rows_without_history(
        profiles.select([_IDS[entity], "ts"]), profiles["properties"].to_pylist()
    )
    return mask, names


def describe_backdated_profiles(
    lake: Lake, features: FeatureSet, entities: Sequence[str] = ("user", "item")
) -> list[tuple[str, str]]:
    """Describe profile features that may use knowledge from after the profile's date.

    Covers imported profiles without an arrival time, and user profiles that arrived late. Rankers
    trust the dates.

    Returns:
        Pairs of "users" or "items" and a warning.
    """
    warnings = []
    for entity, attributes in (
        ("user", features.user_attributes),
        ("item", features.item_attributes),
    ):
        if entity not in entities or not attributes or not lake.exists("events"):
            continue
        profiles = lake.table(
            "events", [*PROFILE_COLUMNS, "item_id", "properties"], ds.field("type") == entity
        )
        checks = [
            (
                find_backdated_profiles(profiles, entity),
                f"are the one that was imported of their {entity}, and nobody said when it came in",
            )
        ]
        if entity == "user" and len(profiles):
            late = find_late_profiles(profiles)
            if np.mean(late[0]) >= CHANGED_SHARE_MIN:  # a few late arrivals are normal
                checks.append((late, "came in over an hour after the time that they are dated to"))
        for (doubtful, names), reason in checks:
            if affected := [name for name in attributes if name in names]:
                count_note = (
                    f"{np.count_nonzero(doubtful):,} of {profiles.num_rows:,} profiles {reason}"
                )
                time_note = (
                    "counts from the time that it is dated to, and must have been known then"
                )
                warnings.append(
                    (
                        f"{entity}s",
                        f"{count_note}: what features read of it ({', '.join(affected)}) "
                        f"{time_note}",
                    )
                )
    return warnings


def drop_attributes(
    texts: pa.ChunkedArray, rows: npt.NDArray[np.bool_], names: frozenset[str]
) -> pa.Array:
    """Return profiles as JSON; the given rows lose the named attributes."""
    cleaned: dict[str | None, str | None] = {None: None}
    originals = texts.filter(pa.array(rows)).to_pylist()
    for text in originals:
        if text not in cleaned:
            retained = {
                name: value for name, value in _decode_attributes(text).items() if name not in names
            }
            cleaned[text] = msgspec.json.encode(retained).decode()
    return pc.replace_with_mask(
        texts.combine_chunks(),
        pa.array(rows),
        pa.array([cleaned[text] for text in originals], texts.type),
    )


_decode_attributes = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _rows_without_history(
    rows: pa.Table, properties: Sequence[str | None]
) -> tuple[npt.NDArray[np.bool_], frozenset[str]]:
    """Return the mask of rows with an attribute that is no history, and these attributes.

    Args:
        rows: id and time of each profile.
    """
    rows_by_attribute: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(properties):
        for name in _decode_attributes(text) if text else ():
            rows_by_attribute[name].append(row)
    mask, names = np.zeros(len(rows), bool), set[str]()
    id_column, ts = rows.column_names
    for name, indices in rows_by_attribute.items():
        times = (
            rows.take(pa.array(indices))
            .group_by(id_column)
            .aggregate([(ts, "count_distinct")])[f"{ts}_count_distinct"]
        )
        if np.mean(times.to_numpy() > 1) < CHANGED_SHARE_MIN:
            mask[indices] = True
            names.add(name)
    return mask, frozenset(names)
