"""Roles of the columns of a matrix for a net.

    numbers     any float32; NaN is missing
    codes       whole numbers as float32: 0 missing, 1 unknown, 2.. as learned; rows of an
                embedding
    bag         several columns that share one embedding, summed; 0 is empty
    history     the candidate's code, L codes of the person's newest items (newest first) and L
                gaps in hours (NaN if empty)

`ranking.encode.encoder` makes such a matrix, and knows nothing of nets.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tailorbird.errors import UsageError


@dataclass(frozen=True)
class Bag:
    """Columns that hold codes of one set."""

    name: str
    column_indexes: tuple[int, ...]
    cardinality: int


@dataclass(frozen=True)
class History:
    """The candidate and the person's newest items, all by codes of one set.

    Attributes:
        age_indexes: positions of the gaps, in hours.
    """

    candidate_index: int
    item_indexes: tuple[int, ...]
    age_indexes: tuple[int, ...]
    cardinality: int


@dataclass(frozen=True)
class Layout:
    """Positions of the columns in a matrix.

    Attributes:
        columns: names of all columns, in order.
        numeric_indexes: positions of numeric columns.
        code_cardinalities: position → number of codes, missing and unknown included.
        embedding_cardinalities: position of a code column (of a bag its first, of the history the
            candidate's) → the size that determines its embedding's width, if not its own: a
            warm-started net keeps the widths of its initial weights.
        position_index: position of the column with the row's rank in the slate, −1 for none; it is
            a number too.
    """

    columns: tuple[str, ...]
    numeric_indexes: tuple[int, ...]
    code_cardinalities: Mapping[int, int]
    bags: tuple[Bag, ...] = ()
    history: History | None = None
    position_index: int = -1
    embedding_cardinalities: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bag_indexes = [column_index for bag in self.bags for column_index in bag.column_indexes]
        used_indexes = [
            *self.numeric_indexes,
            *self.code_cardinalities,
            *bag_indexes,
            *self.history_indexes,
        ]
        if len(set(used_indexes)) != len(used_indexes) or any(
            not 0 <= column_index < len(self.columns) for column_index in used_indexes
        ):
            raise UsageError(
                "a column of the matrix is used twice, or does not exist",
                fix="name each place once",
            )
        if not used_indexes:
            raise UsageError("a net needs at least one column", fix="leave fewer columns out")

    @property
    def net_only_columns(self) -> tuple[str, ...]:
        """Names of the columns that only a net can use: those of the history and of bags."""
        net_only_indexes = [
            *self.history_indexes,
            *(column_index for bag in self.bags for column_index in bag.column_indexes),
        ]
        return tuple(self.columns[column_index] for column_index in net_only_indexes)

    @property
    def history_indexes(self) -> tuple[int, ...]:
        """Positions of the candidate's code, of the newest items and of their gaps, if any."""
        return (
            (self.history.candidate_index, *self.history.item_indexes, *self.history.age_indexes)
            if self.history
            else ()
        )

    def select_columns(self, names: Sequence[str]) -> "Layout":
        """Return the layout of a matrix of some columns, in this order.

        A bag or the history stays if all of its columns do.
        """
        new_index_by_old = {self.columns.index(name): index for index, name in enumerate(names)}

        def remap(column_indices: Iterable[int]) -> tuple[int, ...]:
            return tuple(
                new_index_by_old[index] for index in column_indices if index in new_index_by_old
            )

        history = self.history
        bags = [
            bag
            for bag in self.bags
            if all(index in new_index_by_old for index in bag.column_indexes)
        ]
        has_history = history and all(index in new_index_by_old for index in self.history_indexes)
        return Layout(
            tuple(names),
            remap(self.numeric_indexes),
            {
                new_index_by_old[index]: size
                for index, size in self.code_cardinalities.items()
                if index in new_index_by_old
            },
            tuple(replace(bag, column_indexes=remap(bag.column_indexes)) for bag in bags),
            History(
                new_index_by_old[history.candidate_index],
                remap(history.item_indexes),
                remap(history.age_indexes),
                history.cardinality,
            )
            if history and has_history
            else None,
            new_index_by_old.get(self.position_index, -1),
            {
                new_index_by_old[index]: size
                for index, size in self.embedding_cardinalities.items()
                if index in new_index_by_old
            },
        )


def build_layout(
    columns: Sequence[str], sizes: Mapping[str, int], *, position: str = "position"
) -> Layout:
    """Return the layout of a matrix of numbers and codes alone.

    Args:
        sizes: name of a code column → number of codes, as in `Encoder.sizes`.
    """
    code_cardinalities = {index: sizes[name] for index, name in enumerate(columns) if name in sizes}
    numeric_indexes = tuple(
        index for index in range(len(columns)) if index not in code_cardinalities
    )
    return Layout(
        tuple(columns),
        numeric_indexes,
        code_cardinalities,
        position_index=list(columns).index(position) if position in columns else -1,
    )
