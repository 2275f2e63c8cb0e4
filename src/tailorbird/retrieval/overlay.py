"""Overlay catalogue changes on an index that was built earlier.

Servers use it, and jobs that recompute their scores.
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
    extend_column,
    find_boolean_names,
    is_same_column,
    rows_with_changed_text,
    select_attribute_names,
)
from tailorbird.retrieval.documents import build_documents
from tailorbird.retrieval.index import Index
from tailorbird.retrieval.meaning import TextVectors, texts_to_encode
from tailorbird.retrieval.text import TextIndex

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewItem:
    """An item that was added or changed after the index was built."""

    id: str
    attributes: Mapping[str, Any]
    first_seen: int


@dataclass(frozen=True)
class ItemVersion:
    """A version of an item's profile.

    `attributes` is JSON, `valid_from` the start of the version, `known_since` when it became known,
    and `log_position` its position in the routed log. It may be too large, because for rows deleted
    from the log only the start of the log is known.
    """

    attributes: str
    valid_from: int
    known_since: int
    log_position: int = field(compare=False)

    def is_later_than(self, index: Index) -> bool:
        """Return whether an index that contains the item was built without this version."""
        # Rows of a log that was imported afterwards are recorded later than an index of its end,
        # but have smaller positions.
        return self.known_since >= index.as_of and (
            self.valid_from >= index.as_of or self.log_position > index.log_position
        )

    def to_new_item(self, item_id: str) -> NewItem:
        attributes = msgspec.json.decode(self.attributes)
        return NewItem(item_id, attributes if isinstance(attributes, dict) else {}, self.valid_from)


def update_newest(newest_by_id: dict[str, ItemVersion], item_id: str, version: ItemVersion) -> None:
    """Replace the newest version of an item unless the existing one is newer."""
    current_version = newest_by_id.get(item_id)
    if current_version is None or (version.valid_from, version.known_since) >= (
        current_version.valid_from,
        current_version.known_since,
    ):
        newest_by_id[item_id] = version


def overlay_versions(
    index: Index,
    newest_by_id: Mapping[str, ItemVersion],
    items_without_profile: Sequence[NewItem] = (),
    *,
    with_texts: bool = True,
) -> Index:
    """Return an index with missing items and newer profiles; itself if there are none.

    Args:
        items_without_profile: items without a profile that the index lacks.
        with_texts: whether to update the text index too.
    """
    rows = index.find_ids(list(newest_by_id)).tolist()
    new_items = [
        version.to_new_item(item_id)
        for (item_id, version), row in zip(newest_by_id.items(), rows, strict=True)
        if row < 0 or version.is_later_than(index)
    ]
    new_items = [
        *(item for item in items_without_profile if item.id not in newest_by_id),
        *new_items,
    ]
    return with_items(index, new_items, with_texts=with_texts) if new_items else index


def with_items(index: Index, items: Sequence[NewItem], *, with_texts: bool = True) -> Index:
    """Return an index with items added, or with their attributes replaced.

    It takes some milliseconds at 100,000 items, so do not call it in a request.

    Args:
        with_texts: whether to update the text index too.
    """
    item_by_id = {item.id: item for item in items}
    row_by_id = dict(zip(item_by_id, index.find_ids(list(item_by_id)).tolist(), strict=True))
    added_items = [item for item in item_by_id.values() if row_by_id[item.id] < 0]
    item_count = len(index) + len(added_items)
    for offset, item in enumerate(added_items):
        row_by_id[item.id] = len(index) + offset
    changed_rows = np.array(sorted(row for row in row_by_id.values() if row < len(index)), np.intp)
    attributes: dict[str, Column] = {}
    for name in select_attribute_names(
        (item.attributes for item in item_by_id.values()), index.attributes
    ):
        values = {row_by_id[item.id]: item.attributes.get(name) for item in item_by_id.values()}
        attributes[name] = extend_column(index.attributes.get(name), len(index), values, item_count)
    old_attributes = index.attributes
    item_clusters = index.item_clusters
    vectors = index.vectors
    updated_index = replace(
        index,
        ids=(*index.ids, *(item.id for item in added_items)),
        keys=np.concatenate([index.keys, hash64s(item.id for item in added_items)]),
        first_seen=np.concatenate(
            [index.first_seen, np.array([item.first_seen for item in added_items], np.int64)]
        ),
        attributes=attributes,
        boolean_names=_boolean_names(index, item_by_id.values()),
        visible=None,
        item_clusters=item_clusters.extended(old_attributes, attributes, item_count)
        if item_clusters is not None
        else None,
        vectors=vectors.extended(old_attributes, attributes, changed_rows, item_count)
        if vectors is not None
        else None,
        text=_update_texts(index, attributes, changed_rows, item_count)
        if with_texts
        else index.text,
        text_vectors=_update_text_vectors(index, attributes, changed_rows, item_count)
        if with_texts
        else index.text_vectors,
    )
    # Changed attributes such as a price do not affect these orders.
    if not added_items and index.visible is None:
        updated_index.prepare(
            index,
            same_categories=is_same_column(
                old_attributes.get("category"), attributes.get("category")
            ),
        )
    else:
        updated_index.prepare()
    return updated_index


def _boolean_names(index: Index, items: Collection[NewItem]) -> frozenset[str]:
    """Return the attributes that stay boolean or are new and boolean."""
    updated_names = {
        name for item in items for name, value in item.attributes.items() if value is not None
    }
    updated_boolean_names = find_boolean_names(item.attributes for item in items)
    return (index.boolean_names - updated_names) | {
        name
        for name in updated_boolean_names
        if name in index.boolean_names or name not in index.attributes
    }


def _update_text_vectors(
    index: Index,
    attributes: Mapping[str, Column],
    changed_rows: npt.NDArray[np.intp],
    item_count: int,
) -> TextVectors | None:
    """Return the text vectors of an index, updated for items whose texts are new or changed."""
    if index.text_vectors is None:
        return None
    rows = np.concatenate(
        [
            rows_with_changed_text(index.attributes, attributes, changed_rows),
            np.arange(len(index), item_count),
        ]
    ).astype(np.intp)
    texts = texts_to_encode(build_documents(attributes, rows)) if rows.size else []
    return index.text_vectors.extended(rows, texts, item_count)


def _update_texts(
    index: Index,
    attributes: Mapping[str, Column],
    changed_rows: npt.NDArray[np.intp],
    item_count: int,
) -> TextIndex | None:
    """Return the text index, updated for items whose texts are new or changed."""
    text_index = index.text if index.text is not None else TextIndex.empty()
    updated_rows = np.concatenate(
        [
            text_index.overlay_rows,
            rows_with_changed_text(index.attributes, attributes, changed_rows),
            np.arange(len(index), item_count),
        ]
    )
    if not updated_rows.size:
        return index.text
    rows = np.unique(updated_rows)
    try:
        return text_index.with_documents(rows, build_documents(attributes, rows))
    except (
        ValueError,
        OSError,
    ) as error:  # For example no space for temporary files. Everything else is updated.
        log.error("search does not have new and changed items yet: %s", error)
        return index.text
