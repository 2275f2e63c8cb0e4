"""Columns of a matrix that only nets read, and the layout of a net's input."""

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.models.deep.layout import Bag, History, Layout
from tailorbird.ranking.encode import history
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.encode.steps import Codes
from tailorbird.retrieval.columns import TextColumn
from tailorbird.retrieval.words import Words, holds_lists
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries

HISTORY_LENGTH = 20  # newest items that a net reads
# Rows that an item needs for a code of its own, and the most items that have one.
ITEM_ROWS_MIN = 5
CODED_ITEMS_MAX = 50_000
WORD_WIDTH = 8
WORD_BUCKETS = 2_048


def add_net_columns(encoder: Encoder, train: Dataset, index_series: IndexSeries) -> Encoder:
    """Add net columns: codes of the candidate and of recent items, and words of item attributes.

    Items with fewer than `ITEM_ROWS_MIN` rows share the code of unknown items, which new items have
    too, so its vector is learned. In a simulation with a dcn, 300 items and 100 rare ones (three
    seeds), sharing 64 hash buckets gave new items a log loss of .366 to .392, against .349 to .353
    for a constant mean; the unknown code gives .341 to .347. Buckets for rare items alone gained
    nothing: their log loss was .350 to .357, and is .332 to .353 without.
    """
    keys, counts = np.unique(train.item_vocabulary.keys[train.item_codes], return_counts=True)
    is_frequent = (keys != 0) & (counts >= ITEM_ROWS_MIN)
    keys = keys[is_frequent]
    counts = counts[is_frequent]
    order = np.lexsort((keys, -counts))[:CODED_ITEMS_MAX]
    history_columns = (
        history.History(encoder.sequence, HISTORY_LENGTH, keys[order].tolist())
        if encoder.sequence
        else None
    )
    return msgspec.structs.replace(
        encoder, history=history_columns, words=_word_columns(index_series)
    )


def drop_net_columns(encoder: Encoder) -> Encoder:
    return (
        msgspec.structs.replace(encoder, history=None, words=())
        if encoder.history or encoder.words
        else encoder
    )


def _word_columns(index_series: IndexSeries) -> tuple[Words, ...]:
    """Return the columns of titles and of attributes that are lists."""
    words = []
    for name, column in sorted(index_series.indexes[0].attributes.items()):
        if not isinstance(column, TextColumn) or not column.values:
            continue
        has_list = holds_lists(column)
        if has_list or name == "title":
            words.append(Words(name, WORD_WIDTH, WORD_BUCKETS, has_list))
    return tuple(words)


def build_layout(encoder: Encoder) -> Layout:
    """Return the role that each column of an encoder's matrix has in a net."""
    names = encoder.names
    index_by_name = {name: index for index, name in enumerate(names)}
    code_counts = {index_by_name[name]: size for name, size in encoder.code_counts.items()}
    history_columns = encoder.history
    history_indexes = (
        [index_by_name[name] for name in history_columns.names] if history_columns else []
    )
    history_layout = (
        History(
            history_indexes[0],
            tuple(history_indexes[1 : 1 + history_columns.length]),
            tuple(history_indexes[1 + history_columns.length :]),
            history_columns.size,
        )
        if history_columns
        else None
    )
    bags = tuple(
        Bag(words.attribute, tuple(index_by_name[name] for name in words.names), words.size)
        for words in encoder.words
    )
    used_indexes = {
        *code_counts,
        *history_indexes,
        *(index for bag in bags for index in bag.column_indexes),
    }
    number_indexes = tuple(index for index in range(len(names)) if index not in used_indexes)
    return Layout(
        names, number_indexes, code_counts, bags, history_layout, index_by_name.get("position", -1)
    )


def keys_by_code_column(encoder: Encoder) -> dict[int, npt.NDArray[np.uint64]]:
    """Return the keys of each code column by column index; position i holds the key of code i + 2.

    Hashed columns have no keys and are left out.
    """
    index_by_name = {name: index for index, name in enumerate(encoder.names)}
    keys_by_index = {
        index_by_name[vocabulary.name]: vocabulary.keys for vocabulary in encoder.vocabularies
    }
    keys_by_index |= {
        index_by_name[transform.name]: transform.steps[-1].keys
        for transform in encoder.transforms
        if transform.code_count and isinstance(transform.steps[-1], Codes)
    }
    if encoder.history:
        keys_by_index[index_by_name[encoder.history.names[0]]] = encoder.history.keys
    return {index: np.array(keys, np.uint64) for index, keys in keys_by_index.items()}
