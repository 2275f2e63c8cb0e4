"""What the catalogue said of items since an index was built, laid over it: for servers, and for who
computes their scores again.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.events.keys import hash64s
from tailorbird.retrieval.columns import (
    Column,
    extended,
    names_kept,
    of_other_texts,
    says_same,
    truths_in,
)
from tailorbird.retrieval.index import Index
from tailorbird.retrieval.meaning import Meaning, texts_to_encode
from tailorbird.retrieval.text import TextIndex, documents_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewItem:
    """An item that came, or changed, after the index was built."""

    id: str
    attributes: Mapping[str, Any]
    first_seen: int


@dataclass(frozen=True)
class ItemVersion:
    """A profile of an item: its attributes as JSON, when it came to be, since when it is known, and
    where it stands in the routed log.

    `p` may be too large: of what was deleted from the log, only where the log begins is known.
    """

    attributes: str
    valid_from: int
    known_since: int
    p: int = field(compare=False)

    def is_later_than(self, index: Index) -> bool:
        """Whether an index that knows the item was built without this version."""
        # Of a log that was brought in afterwards, all is known later than an index of its end, and
        # stands before it nevertheless.
        return self.known_since >= index.as_of and (
            self.valid_from >= index.as_of or self.p > index.p
        )

    def item(self, item_id: str) -> NewItem:
        attributes = msgspec.json.decode(self.attributes)
        return NewItem(item_id, attributes if isinstance(attributes, dict) else {}, self.valid_from)


def update_newest(newest: dict[str, ItemVersion], item_id: str, version: ItemVersion) -> None:
    """Let a version take the place of the one before, unless that is newer."""
    before = newest.get(item_id)
    if before is None or (version.valid_from, version.known_since) >= (
        before.valid_from,
        before.known_since,
    ):
        newest[item_id] = version


def overlay_versions(
    index: Index,
    newest: Mapping[str, ItemVersion],
    bare: Sequence[NewItem] = (),
    *,
    texts: bool = True,
) -> Index:
    """An index that also knows the items that it lacks, and what was known since it was built;
    itself where that is nothing.

    Args:
        bare: items without a profile, none of which the index knows.
        texts: whether search is to know them too.
    """
    rows = index.find_ids(list(newest)).tolist()
    later = [
        version.item(item_id)
        for (item_id, version), row in zip(newest.items(), rows, strict=True)
        if row < 0 or version.is_later_than(index)
    ]
    later = [*(one for one in bare if one.id not in newest), *later]
    return with_items(index, later, texts=texts) if later else index


def with_items(index: Index, items: Sequence[NewItem], *, texts: bool = True) -> Index:
    """An index with items added, or their attributes replaced where it knows them. Some ms at
    100,000 items: not in a request.

    Args:
        texts: whether search is to know them too.
    """
    unique = {item.id: item for item in items}
    rows = dict(zip(unique, index.find_ids(list(unique)).tolist(), strict=True))
    added = [item for item in unique.values() if rows[item.id] < 0]
    total = len(index) + len(added)
    for offset, item in enumerate(added):
        rows[item.id] = len(index) + offset
    changed = np.array(sorted(row for row in rows.values() if row < len(index)), np.intp)
    attributes: dict[str, Column] = {}
    for name in names_kept((item.attributes for item in unique.values()), index.attributes):
        values = {rows[item.id]: item.attributes.get(name) for item in unique.values()}
        attributes[name] = extended(index.attributes.get(name), len(index), values, total)
    before, together, vectors = index.attributes, index.together, index.vectors
    made = replace(
        index,
        ids=(*index.ids, *(item.id for item in added)),
        keys=np.concatenate([index.keys, hash64s(item.id for item in added)]),
        first_seen=np.concatenate(
            [index.first_seen, np.array([item.first_seen for item in added], np.int64)]
        ),
        attributes=attributes,
        truths=_truths(index, unique.values()),
        shown=None,
        together=together.extended(before, attributes, total) if together is not None else None,
        vectors=vectors.extended(before, attributes, changed, total)
        if vectors is not None
        else None,
        text=_retold(index, attributes, changed, total) if texts else index.text,
        meaning=_with_meanings(index, attributes, changed, total) if texts else index.meaning,
    )
    if not added and index.shown is None:  # a price that changed moves nothing in these orders
        made.prepare(
            index, categories=says_same(before.get("category"), attributes.get("category"))
        )
    else:
        made.prepare()
    return made


def _truths(index: Index, items: Collection[NewItem]) -> frozenset[str]:
    """The attributes that are truths, and stay so or are new."""
    told = {name for item in items for name, value in item.attributes.items() if value is not None}
    true = truths_in(item.attributes for item in items)
    return (index.truths - told) | {
        name for name in true if name in index.truths or name not in index.attributes
    }


def _with_meanings(
    index: Index, attributes: Mapping[str, Column], changed: npt.NDArray[np.intp], total: int
) -> Meaning | None:
    """Return the text vectors of an index, with those of items that came or whose texts changed."""
    if index.meaning is None:
        return None
    rows = np.concatenate(
        [of_other_texts(index.attributes, attributes, changed), np.arange(len(index), total)]
    ).astype(np.intp)
    texts = texts_to_encode(documents_of(attributes, rows)) if rows.size else []
    return index.meaning.extended(rows, texts, total)


def _retold(
    index: Index, attributes: Mapping[str, Column], changed: npt.NDArray[np.intp], total: int
) -> TextIndex | None:
    """The texts of an index, with those of items that came or changed."""
    text = index.text if index.text is not None else TextIndex.empty()
    told = np.concatenate(
        [
            text.told,
            of_other_texts(index.attributes, attributes, changed),
            np.arange(len(index), total),
        ]
    )
    if not told.size:
        return index.text
    rows = np.unique(told)
    try:
        return text.with_documents(rows, documents_of(attributes, rows))
    except (
        ValueError,
        OSError,
    ) as error:  # no room for temporary files, say: all else goes on with what is new
        log.error("search does not know yet what came or changed lately: %s", error)
        return index.text
