"""What the catalogue said of items since an index was built, laid over it: for servers, and for who computes their scores again."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from tailorbird.retrieval.index import Index, NewItem


@dataclass(frozen=True)
class ItemVersion:
    """A profile of an item: its attributes as JSON, when it came to be, and since when it is known."""

    attributes: str
    valid_from: int
    known_since: int

    def item(self, item_id: str) -> NewItem:
        attributes = msgspec.json.decode(self.attributes)
        return NewItem(item_id, attributes if isinstance(attributes, dict) else {}, self.valid_from)


def take_version(newest: dict[str, ItemVersion], item_id: str, version: ItemVersion) -> None:
    """Let a version take the place of the one before, unless that is newer."""
    before = newest.get(item_id)
    if before is None or (version.valid_from, version.known_since) >= (before.valid_from, before.known_since):
        newest[item_id] = version


def laid_over(index: Index, newest: Mapping[str, ItemVersion]) -> Index:
    """An index that also knows the items that it lacks, and what was known since it was built; itself where that is nothing."""
    rows = index.find_ids(list(newest)).tolist()
    later = [
        version.item(item_id)
        for (item_id, version), row in zip(newest.items(), rows, strict=True)
        if row < 0 or version.known_since >= index.as_of
    ]
    return index.with_items(later) if later else index
