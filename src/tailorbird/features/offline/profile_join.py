"""Join of events with the profile attributes that applied at their time.

The router stores with an event the ids of the profile versions that applied at its time, and those
of their attributes that were declared then. The lake has each version in full. An attribute that
was declared later is therefore looked up by the id of the version: `join_profiles` returns exactly
what the router would have stored. All code that reads events of the lake for features uses
`JoinedEvents`.

    event: item_id, item_version, item_profile {"category":…}  ─┐
    lake `items`: id, version, attributes {"brand":…, …}       ─┴►  {"brand":…, "category":…}

A version that the lake does not have keeps its stored attributes; others are missing. An event
without a version has no profile. Blocks of the routed log list the attributes they store
(`features.online.receipts`): a worker that needs others reads these rows from the lake.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.events.contract.schema import ROUTED
from tailorbird.features.featureset import FeatureSet
from tailorbird.lake import Lake

CHUNK_ROWS = 100_000
VERSIONS_CACHED_MAX = (
    100_000  # per kind, about 50 MB; exceeded only while one piece of events needs more
)

Version = tuple[str, str]  # id of the user or item, id of the version
Attributes = dict[str, msgspec.Raw]
VersionLookup = Callable[[set[Version]], Mapping[Version, Attributes]]

_ID_COLUMNS = {"user": "person", "item": "item_id"}
_profile_decoder = msgspec.json.Decoder(Attributes)
_profiles_decoder = msgspec.json.Decoder(list[Attributes | None])
_versions_decoder = msgspec.json.Decoder(list[str | None])


class JoinedEvents:
    """Events of a lake with the attributes that some sets of features take from them.

    Args:
        features: all whose values are to be computed from the events.
    """

    def __init__(self, lake: Lake, *features: FeatureSet) -> None:
        self._lake = lake
        needed_names = {
            kind: tuple(
                sorted({name for feature in features for name in feature.event_attributes[kind]})
            )
            for kind in _ID_COLUMNS
        }
        self._version_caches = {
            kind: _VersionCache(lake, f"{kind}s", attribute_names)
            for kind, attribute_names in needed_names.items()
            if attribute_names
        }

    def table(
        self, columns: Sequence[str] = ROUTED.names, where: ds.Expression | None = None
    ) -> pa.Table:
        """Read a table of events like `Lake.table`, with joined profiles."""
        return self.join(self._lake.table("events", self._input_columns(columns), where)).select(
            list(columns)
        )

    def batches(
        self, columns: Sequence[str], where: ds.Expression | None = None
    ) -> Iterator[pa.Table]:
        """Yield tables of events like `Lake.batches`, with joined profiles."""
        for batch in self._lake.batches("events", self._input_columns(columns), where):
            yield self.join(pa.Table.from_batches([batch])).select(list(columns))

    def join(self, events: pa.Table) -> pa.Table:
        """Return the same events with the missing attributes of their profiles, as far as the lake
        has them.
        """
        for kind, version_cache in self._version_caches.items():
            if f"{kind}_profile" in events.column_names:
                joined_tables = [
                    join_profiles(
                        events.slice(start, CHUNK_ROWS),
                        kind,
                        version_cache.attribute_names,
                        version_cache.find_versions,
                    )[f"{kind}_profile"]
                    for start in range(0, len(events), CHUNK_ROWS)
                ]
                profile_texts = pa.chunked_array(
                    [chunk for joined_table in joined_tables for chunk in joined_table.chunks],
                    pa.string(),
                )
                events = events.set_column(
                    events.column_names.index(f"{kind}_profile"), f"{kind}_profile", profile_texts
                )
        return events

    def _input_columns(self, columns: Sequence[str]) -> list[str]:
        """Return the columns to read, including those by which versions are looked up."""
        column_names = dict.fromkeys(columns)
        for kind in self._version_caches:
            if f"{kind}_profile" in column_names:
                column_names |= dict.fromkeys(
                    [f"{kind}_version", _ID_COLUMNS[kind], *(["items"] if kind == "item" else [])]
                )
        return list(column_names)


def join_profiles(
    events: pa.Table, kind: str, attribute_names: Sequence[str], find_versions: VersionLookup
) -> pa.Table:
    """Add to the stored profiles of one kind, "user" or "item", the missing attributes of
    `attribute_names`.

    Args:
        events: with the profile, version and subject of the kind, and for items `items`.
        find_versions: returns the known ones of the given versions, with at least the attributes
            `attribute_names`.
    """
    column = f"{kind}_profile"
    stored_profiles = events[column].combine_chunks()
    encoded_texts = stored_profiles.dictionary_encode()
    needed_names = frozenset(attribute_names)
    is_lacking = np.array(
        [*(_lacks_any(text, needed_names) for text in encoded_texts.dictionary.to_pylist()), True]
    )  # The last entry stands for no profile.
    text_codes = encoded_texts.indices.fill_null(len(is_lacking) - 1).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(is_lacking[text_codes] & events[f"{kind}_version"].is_valid().to_numpy())
    if not len(rows):
        return events
    lacking_events = events.take(pa.array(rows))
    has_list = (
        lacking_events["item_id"].is_null().to_numpy()
        if kind == "item"
        else np.zeros(len(rows), np.bool_)
    )
    single_profiles = _DistinctProfiles(
        lacking_events.filter(pa.array(~has_list)), _ID_COLUMNS[kind], kind
    )
    versions_needed = {(id_, version) for id_, version, _ in single_profiles.values}
    list_events = lacking_events.filter(pa.array(has_list))
    profile_lists = _profile_lists(list_events) if len(list_events) else []
    versions_needed.update(
        version for versions, _ in profile_lists for version in versions if version is not None
    )
    attributes = find_versions(versions_needed)
    profile_texts = np.empty(len(rows), object)
    joined_singles = np.array(
        [
            _merge_attributes(text, attributes.get((id_, version)), needed_names)
            for id_, version, text in single_profiles.values
        ],
        object,
    )
    profile_texts[~has_list] = (
        joined_singles[single_profiles.codes] if len(joined_singles) else joined_singles
    )
    profile_texts[has_list] = [
        _encode_merged_list(ids, own_profiles, attributes, needed_names)
        for ids, own_profiles in profile_lists
    ]
    joined_texts = np.array(
        stored_profiles.to_pylist() if len(rows) < len(events) else [None] * len(events), object
    )
    joined_texts[rows] = profile_texts
    return events.set_column(
        events.column_names.index(column), column, pa.array(joined_texts, pa.string())
    )


class _DistinctProfiles:
    """The distinct (subject, version, profile) of events, and each event's index in them."""

    def __init__(self, events: pa.Table, id_column: str, kind: str) -> None:
        columns = [
            events[name].combine_chunks().dictionary_encode()
            for name in (id_column, f"{kind}_version", f"{kind}_profile")
        ]
        self.codes: npt.NDArray[np.int64] = np.zeros(len(events), np.int64)
        first_rows = np.zeros(0, np.int64)
        for column in columns:
            codes = column.indices.fill_null(len(column.dictionary)).to_numpy(zero_copy_only=False)
            combined_codes = self.codes * (len(column.dictionary) + 1) + codes
            _, first_rows, self.codes = np.unique(
                combined_codes, return_index=True, return_inverse=True
            )
        row_indices = pa.array(first_rows)
        self.values: list[tuple[str, str, str | None]] = list(
            zip(*(column.take(row_indices).to_pylist() for column in columns), strict=True)
        )


class _VersionCache:
    """The versions of one table of profiles, read on first use, with some attributes."""

    def __init__(self, lake: Lake, table: str, attribute_names: Sequence[str]) -> None:
        self.attribute_names = tuple(attribute_names)
        self._lake = lake
        self._table = table
        self._cache: dict[Version, Attributes] = {}

    def find_versions(self, versions: set[Version]) -> Mapping[Version, Attributes]:
        """Return those of the versions that the lake has."""
        missing_versions = versions - self._cache.keys()
        if missing_versions and self._lake.exists(self._table):
            if len(self._cache) + len(missing_versions) > VERSIONS_CACHED_MAX:
                self._cache = {
                    version: attributes
                    for version, attributes in self._cache.items()
                    if version in versions
                }
            self._load(missing_versions)
        return self._cache

    def _load(self, missing_versions: set[Version]) -> None:
        """Read missing versions into the cache.

        Of a version id that was reused, beyond the period of deduplication, the first one counts.
        """
        first_positions: dict[Version, int] = {}
        where = ds.field("version").isin(
            pa.array(sorted({version for _, version in missing_versions}), pa.string())
        )
        for batch in self._lake.batches(self._table, ["id", "version", "attributes", "p"], where):
            for id_, version, text, log_position in zip(
                *(column.to_pylist() for column in batch.columns), strict=True
            ):
                id_and_version = (id_, version)
                if id_and_version in missing_versions and log_position < first_positions.get(
                    id_and_version, log_position + 1
                ):
                    first_positions[id_and_version] = log_position
                    attributes = _profile_decoder.decode(text) if text else {}
                    self._cache[id_and_version] = {
                        name: attributes[name].copy()
                        for name in self.attribute_names
                        if name in attributes
                    }


def _lacks_any(text: str | None, needed_names: frozenset[str]) -> bool:
    if text is None:
        return True
    if text.startswith("["):
        return any(
            profile is not None and not needed_names <= profile.keys()
            for profile in _profiles_decoder.decode(text)
        )
    return not needed_names <= _profile_decoder.decode(text).keys()


def _profile_lists(events: pa.Table) -> list[tuple[list[Version | None], list[Attributes | None]]]:
    """Return, for each event with several items, their versions and their stored profiles."""
    profile_lists = []
    for items, versions, text in zip(
        *(events[name].to_pylist() for name in ("items", "item_version", "item_profile")),
        strict=True,
    ):
        ids_and_versions = zip(items or [], _versions_decoder.decode(versions), strict=False)
        versions_of_items = [
            None if version is None else (item, version) for item, version in ids_and_versions
        ]
        profiles = (
            _profiles_decoder.decode(text)
            if text
            else [{} if versions_of_item else None for versions_of_item in versions_of_items]
        )
        profile_lists.append((versions_of_items, profiles))
    return profile_lists


def _merge_attributes(
    text: str | None, attributes: Attributes | None, needed_names: frozenset[str]
) -> str | None:
    if attributes is None:
        return text
    return _encode_sorted(_profile_decoder.decode(text) if text else {}, attributes, needed_names)


def _encode_merged_list(
    versions: list[Version | None],
    profiles: list[Attributes | None],
    attributes: Mapping[Version, Attributes],
    needed_names: frozenset[str],
) -> str:
    """Encode a profile or null for each item, as the router does."""
    encoded_profiles = []
    for version, profile in zip(versions, profiles, strict=False):
        encoded_profiles.append(
            "null"
            if version is None
            else _encode_sorted(profile or {}, attributes.get(version, {}), needed_names)
        )
    return f"[{','.join(encoded_profiles)}]"


def _encode_sorted(
    profile: Attributes, attributes: Attributes, needed_names: frozenset[str]
) -> str:
    """Encode as JSON with sorted keys; what is stored with the event takes precedence."""
    merged = {name: value for name, value in attributes.items() if name in needed_names} | profile
    return msgspec.json.encode({name: merged[name] for name in sorted(merged)}).decode()
