"""What profiles say of the user and the items of an event, also where an attribute was declared
after the event was routed.

The router keeps with an event the ids of the profile versions that applied at its time, and of
their attributes those that were declared then. The lake has each version whole. So an attribute
that was declared later is looked up by the id of the version: `attach` gives exactly what the
router would have kept. Whoever reads events of the lake for features reads them by
`AttachedEvents`.

    event: item_id, item_version, item_profile {"category":…}  ─┐
    lake `items`: id, version, attributes {"brand":…, …}        ─┴►  item_profile {"brand":…, "category":…}

A version that the lake does not have stays as it was kept: what it lacks is missing. An event
without a version has no profile. Blocks of the routed log say which attributes they keep
(`features.receipts`): a worker that needs others has these rows from the lake.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.events.schema import ROUTED
from tailorbird.features.featureset import FeatureSet
from tailorbird.lake import Lake

ROWS_AT_ONCE = 100_000
VERSIONS_KEPT = (
    100_000  # of each kind, some 50 MB; more than that only while one piece of events needs them
)

Version = tuple[str, str]  # id of the user or item, id of the version
Said = dict[str, msgspec.Raw]
Lookup = Callable[[set[Version]], Mapping[Version, Said]]

_SUBJECT = {"user": "person", "item": "item_id"}
_profile = msgspec.json.Decoder(Said)
_profiles = msgspec.json.Decoder(list[Said | None])
_versions = msgspec.json.Decoder(list[str | None])


class AttachedEvents:
    """Events of a lake with the attributes that some sets of features take from them.

    Args:
        features: all whose values are to be computed from the events.
    """

    def __init__(self, lake: Lake, *features: FeatureSet) -> None:
        self._lake = lake
        needed = {
            kind: tuple(sorted({name for one in features for name in one.event_attributes[kind]}))
            for kind in _SUBJECT
        }
        self._wanted = {
            kind: _Versions(lake, f"{kind}s", names) for kind, names in needed.items() if names
        }

    def table(
        self, columns: Sequence[str] = ROUTED.names, where: ds.Expression | None = None
    ) -> pa.Table:
        """As `Lake.table` of the events."""
        return self.fill(self._lake.table("events", self._read(columns), where)).select(
            list(columns)
        )

    def batches(
        self, columns: Sequence[str], where: ds.Expression | None = None
    ) -> Iterator[pa.Table]:
        """As `Lake.batches` of the events, each a table."""
        for batch in self._lake.batches("events", self._read(columns), where):
            yield self.fill(pa.Table.from_batches([batch])).select(list(columns))

    def fill(self, events: pa.Table) -> pa.Table:
        """The same events with what their profiles lack, as far as the lake has it."""
        for kind, versions in self._wanted.items():
            if f"{kind}_profile" in events.column_names:
                pieces = [
                    attach(events.slice(start, ROWS_AT_ONCE), kind, versions.names, versions.of)[
                        f"{kind}_profile"
                    ]
                    for start in range(0, len(events), ROWS_AT_ONCE)
                ]
                filled = pa.chunked_array(
                    [chunk for piece in pieces for chunk in piece.chunks], pa.string()
                )
                events = events.set_column(
                    events.column_names.index(f"{kind}_profile"), f"{kind}_profile", filled
                )
        return events

    def _read(self, columns: Sequence[str]) -> list[str]:
        """The columns, and by which versions are found."""
        names = dict.fromkeys(columns)
        for kind in self._wanted:
            if f"{kind}_profile" in names:
                names |= dict.fromkeys(
                    [f"{kind}_version", _SUBJECT[kind], *(["items"] if kind == "item" else [])]
                )
        return list(names)


def attach(events: pa.Table, kind: str, names: Sequence[str], versions: Lookup) -> pa.Table:
    """The events with what their attached profiles of one kind, "user" or "item", lack of `names`.

    Args:
        events: with the profile, version and subject of the kind, and for items `items`.
        versions: gives of the asked ones those that are known, with at least `names` of what they
            say.
    """
    column = f"{kind}_profile"
    profile = events[column].combine_chunks()
    texts = profile.dictionary_encode()
    needed = frozenset(names)
    lacking = np.array(
        [*(_lacks(text, needed) for text in texts.dictionary.to_pylist()), True]
    )  # the last: none at all
    codes = texts.indices.fill_null(len(lacking) - 1).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(lacking[codes] & events[f"{kind}_version"].is_valid().to_numpy())
    if not len(rows):
        return events
    some = events.take(pa.array(rows))
    several = (
        some["item_id"].is_null().to_numpy() if kind == "item" else np.zeros(len(rows), np.bool_)
    )
    single = _Distinct(some.filter(pa.array(~several)), _SUBJECT[kind], kind)
    asked = {(id_, version) for id_, version, _ in single.values}
    lists = some.filter(pa.array(several))
    listed = _listed(lists) if len(lists) else []
    asked.update(one for ids, _ in listed for one in ids if one is not None)
    known = versions(asked)
    filled = np.empty(len(rows), object)
    ones = np.array(
        [_merged(text, known.get((id_, version)), needed) for id_, version, text in single.values],
        object,
    )
    filled[~several] = ones[single.codes] if len(ones) else ones
    filled[several] = [_merged_list(ids, said, known, needed) for ids, said in listed]
    values = np.array(
        profile.to_pylist() if len(rows) < len(events) else [None] * len(events), object
    )
    values[rows] = filled
    return events.set_column(
        events.column_names.index(column), column, pa.array(values, pa.string())
    )


class _Distinct:
    """The different (subject, version, profile) of events, and which of them each event has."""

    def __init__(self, events: pa.Table, subject: str, kind: str) -> None:
        columns = [
            events[name].combine_chunks().dictionary_encode()
            for name in (subject, f"{kind}_version", f"{kind}_profile")
        ]
        self.codes: npt.NDArray[np.int64] = np.zeros(len(events), np.int64)
        first = np.zeros(0, np.int64)
        for column in columns:
            codes = column.indices.fill_null(len(column.dictionary)).to_numpy(zero_copy_only=False)
            pairs = self.codes * (len(column.dictionary) + 1) + codes
            _, first, self.codes = np.unique(pairs, return_index=True, return_inverse=True)
        places = pa.array(first)
        self.values: list[tuple[str, str, str | None]] = list(
            zip(*(one.take(places).to_pylist() for one in columns), strict=True)
        )


class _Versions:
    """The versions of one table of profiles, each read when it is first asked for, with some of its
    attributes.
    """

    def __init__(self, lake: Lake, table: str, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._lake, self._table = lake, table
        self._known: dict[Version, Said] = {}

    def of(self, asked: set[Version]) -> Mapping[Version, Said]:
        """Those of the asked ones that the lake has."""
        missing = asked - self._known.keys()
        if missing and self._lake.exists(self._table):
            if len(self._known) + len(missing) > VERSIONS_KEPT:
                self._known = {one: said for one, said in self._known.items() if one in asked}
            self._load(missing)
        return self._known

    def _load(self, missing: set[Version]) -> None:
        """An id of a version that was used twice, longer ago than repeats are known for, stands for
        the first.
        """
        first: dict[Version, int] = {}
        where = ds.field("version").isin(
            pa.array(sorted({version for _, version in missing}), pa.string())
        )
        for batch in self._lake.batches(self._table, ["id", "version", "attributes", "p"], where):
            for id_, version, text, p in zip(
                *(column.to_pylist() for column in batch.columns), strict=True
            ):
                one = (id_, version)
                if one in missing and p < first.get(one, p + 1):
                    first[one] = p
                    said = _profile.decode(text) if text else {}
                    self._known[one] = {
                        name: said[name].copy() for name in self.names if name in said
                    }


def _lacks(text: str | None, needed: frozenset[str]) -> bool:
    if text is None:
        return True
    if text.startswith("["):
        return any(one is not None and not needed <= one.keys() for one in _profiles.decode(text))
    return not needed <= _profile.decode(text).keys()


def _listed(events: pa.Table) -> list[tuple[list[Version | None], list[Said | None]]]:
    """Of each event with several items, the versions of these and what was kept of them."""
    found = []
    for items, versions, text in zip(
        *(events[name].to_pylist() for name in ("items", "item_version", "item_profile")),
        strict=True,
    ):
        named = zip(items or [], _versions.decode(versions), strict=False)
        each = [None if version is None else (item, version) for item, version in named]
        said = _profiles.decode(text) if text else [{} if one else None for one in each]
        found.append((each, said))
    return found


def _merged(text: str | None, known: Said | None, needed: frozenset[str]) -> str | None:
    if known is None:
        return text
    return _encoded(_profile.decode(text) if text else {}, known, needed)


def _merged_list(
    each: list[Version | None],
    said: list[Said | None],
    known: Mapping[Version, Said],
    needed: frozenset[str],
) -> str:
    """As the router has it: a profile or null for each item."""
    found = []
    for one, kept in zip(each, said, strict=False):
        found.append("null" if one is None else _encoded(kept or {}, known.get(one, {}), needed))
    return f"[{','.join(found)}]"


def _encoded(kept: Said, known: Said, needed: frozenset[str]) -> str:
    """As JSON with sorted keys; what was kept with the event stays."""
    told = {name: value for name, value in known.items() if name in needed} | kept
    return msgspec.json.encode({name: told[name] for name in sorted(told)}).decode()
