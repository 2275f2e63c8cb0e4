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
from tailorbird.lake.write.etl import HISTORICAL_PARTITIONS

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
HISTORY_SHARE_MIN = 0.01
_ID_COLUMN_BY_ENTITY = {"user": "user_id", "item": "item_id"}


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
        for less than `HISTORY_SHARE_MIN` of its owners.
    """
    is_doubtful = pc.and_(
        pc.equal(events["type"], entity),
        pc.is_in(events["raw_partition"], pa.array(HISTORICAL_PARTITIONS)),
    )
    # An import without times is dated at the import. Without a stated arrival time, the time that
    # a profile is dated at stands for it.
    is_doubtful = pc.and_(
        is_doubtful, pc.and_(pc.is_valid(events["ts_original"]), pc.is_null(events["sent_at"]))
    )
    is_doubtful = pc.and_(
        is_doubtful, pc.equal(pc.coalesce(events["received_at"], events["ts"]), events["ts"])
    )
    return _mark_profiles_without_history(events, entity, is_doubtful)


def find_late_profiles(
    events: pa.Table, entity: str = "user"
) -> tuple[npt.NDArray[np.bool_], frozenset[str]]:
    """Find profiles that arrived more than an hour after the time they are dated at.

    Churn models use such profiles from their arrival on. Rankers ask for what holds at a time, and
    trust the date. Returns the same as `find_backdated_profiles`.
    """
    is_late = micros(pc.coalesce(events["received_at"], events["ts"])) - micros(events["ts"]) > HOUR
    return _mark_profiles_without_history(
        events, entity, pc.and_(pc.equal(events["type"], entity), pa.array(is_late))
    )


def _mark_profiles_without_history(
    events: pa.Table, entity: str, is_doubtful: pa.ChunkedArray
) -> tuple[npt.NDArray[np.bool_], frozenset[str]]:
    is_doubtful = pc.fill_null(
        pc.and_(is_doubtful, pc.invert(pc.fill_null(events["timeless"], False))), False
    )
    is_backdated = is_doubtful.to_numpy().astype(bool)
    if not is_backdated.any() or "properties" not in events.column_names:
        return np.zeros(len(is_backdated), bool), frozenset()
    profiles = events.select([_ID_COLUMN_BY_ENTITY[entity], "ts", "properties"]).filter(is_doubtful)
    is_backdated[is_backdated], attribute_names = _mark_rows_without_history(
        profiles.select([_ID_COLUMN_BY_ENTITY[entity], "ts"]), profiles["properties"].to_pylist()
    )
    return is_backdated, attribute_names


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
        profile_checks = [
            (
                find_backdated_profiles(profiles, entity),
                f"are the one that was imported of their {entity}, and nobody said when it came in",
            )
        ]
        if entity == "user" and len(profiles):
            late_profiles = find_late_profiles(profiles)
            if np.mean(late_profiles[0]) >= HISTORY_SHARE_MIN:  # a few late arrivals are normal
                profile_checks.append(
                    (late_profiles, "came in over an hour after the time that they are dated to")
                )
        for (is_backdated, backdated_attributes), reason in profile_checks:
            if affected_attributes := [name for name in attributes if name in backdated_attributes]:
                count_note = (
                    f"{np.count_nonzero(is_backdated):,} of {profiles.num_rows:,} profiles {reason}"
                )
                time_note = (
                    "counts from the time that it is dated to, and must have been known then"
                )
                warnings.append(
                    (
                        f"{entity}s",
                        f"{count_note}: what features read of it "
                        f"({', '.join(affected_attributes)}) "
                        f"{time_note}",
                    )
                )
    return warnings


def drop_attributes(
    profile_texts: pa.ChunkedArray, row_mask: npt.NDArray[np.bool_], attribute_names: frozenset[str]
) -> pa.Array:
    """Return profiles as JSON; the given rows lose the named attributes."""
    cleaned_by_text: dict[str | None, str | None] = {None: None}
    masked_texts = profile_texts.filter(pa.array(row_mask)).to_pylist()
    for text in masked_texts:
        if text not in cleaned_by_text:
            retained_attributes = {
                name: value
                for name, value in _decode_attributes(text).items()
                if name not in attribute_names
            }
            cleaned_by_text[text] = msgspec.json.encode(retained_attributes).decode()
    return pc.replace_with_mask(
        profile_texts.combine_chunks(),
        pa.array(row_mask),
        pa.array([cleaned_by_text[text] for text in masked_texts], profile_texts.type),
    )


_decode_attributes = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _mark_rows_without_history(
    profile_times: pa.Table, properties: Sequence[str | None]
) -> tuple[npt.NDArray[np.bool_], frozenset[str]]:
    """Return the mask of rows with an attribute that is no history, and these attributes.

    Args:
        profile_times: id and time of each profile.
    """
    rows_by_attribute: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(properties):
        for name in _decode_attributes(text) if text else ():
            rows_by_attribute[name].append(row)
    lacks_history = np.zeros(len(profile_times), bool)
    attribute_names = set[str]()
    id_column, ts_column = profile_times.column_names
    for name, row_indexes in rows_by_attribute.items():
        times_per_entity = (
            profile_times.take(pa.array(row_indexes))
            .group_by(id_column)
            .aggregate([(ts_column, "count_distinct")])[f"{ts_column}_count_distinct"]
        )
        if np.mean(times_per_entity.to_numpy() > 1) < HISTORY_SHARE_MIN:
            lacks_history[row_indexes] = True
            attribute_names.add(name)
    return lacks_history, frozenset(attribute_names)
