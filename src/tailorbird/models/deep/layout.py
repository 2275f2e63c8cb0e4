"""What the columns of a matrix are to a net: numbers, codes, bags of codes, and the candidate
beside the person's newest items.

    numbers     any float32; NaN is missing
    codes       whole numbers as float32: 0 missing, 1 unknown, 2.. as learned; rows of an embedding
    bag         several columns that share one embedding, summed; 0 is an empty place
    history     the candidate's code, L codes of the newest items (newest first) and L gaps in hours (NaN where there is none)

The encoder that makes such a matrix is `ranking.encoders`, which knows no net.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tailorbird.errors import UsageError


@dataclass(frozen=True)
class Bag:
    """Columns that hold codes of one set."""

    name: str
    places: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class History:
    """The candidate and the newest items of who asks, all by codes of one set."""

    candidate: int
    items: tuple[int, ...]
    gaps: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class Layout:
    """Places of the columns in a matrix.

    Attributes:
        columns: names of all columns, in order.
        numbers: places of numeric columns.
        codes: place → how many codes, missing and unknown included.
        nominal: place of a column of codes (of a bag its first, of the history the candidate's) →
            the size that its embedding's width goes by, where that is not its own: a net that goes
            on from older weights has their widths.
        position: place of the column that says where a row was shown, −1 for none; it is a number
            too.
    """

    columns: tuple[str, ...]
    numbers: tuple[int, ...]
    codes: Mapping[int, int]
    bags: tuple[Bag, ...] = ()
    history: History | None = None
    position: int = -1
    nominal: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bags = [place for bag in self.bags for place in bag.places]
        used = [*self.numbers, *self.codes, *bags, *self.of_history]
        if len(set(used)) != len(used) or any(not 0 <= place < len(self.columns) for place in used):
            raise UsageError(
                "a column of the matrix is used twice, or does not exist",
                fix="name each place once",
            )
        if not used:
            raise UsageError("a net needs at least one column", fix="leave fewer columns out")

    @property
    def for_nets(self) -> tuple[str, ...]:
        """Names of the columns that nothing but a net can use: those of the history, and of bags."""
        places = [*self.of_history, *(place for bag in self.bags for place in bag.places)]
        return tuple(self.columns[place] for place in places)

    @property
    def of_history(self) -> tuple[int, ...]:
        """Places of the candidate's code, of the newest items and of their gaps; none without a
        history.
        """
        return (
            (self.history.candidate, *self.history.items, *self.history.gaps)
            if self.history
            else ()
        )

    def only(self, names: Sequence[str]) -> "Layout":
        """The layout of a matrix of some of the columns, in this order. A bag, or the history,
        stays where all of its columns do.
        """
        at = {self.columns.index(name): place for place, name in enumerate(names)}

        def some(places: Iterable[int]) -> tuple[int, ...]:
            return tuple(at[place] for place in places if place in at)

        past, bags = (
            self.history,
            [bag for bag in self.bags if all(place in at for place in bag.places)],
        )
        kept = past and all(place in at for place in self.of_history)
        return Layout(
            tuple(names),
            some(self.numbers),
            {at[place]: size for place, size in self.codes.items() if place in at},
            tuple(replace(bag, places=some(bag.places)) for bag in bags),
            History(at[past.candidate], some(past.items), some(past.gaps), past.size)
            if past and kept
            else None,
            at.get(self.position, -1),
            {at[place]: size for place, size in self.nominal.items() if place in at},
        )


def layout(
    columns: Sequence[str], sizes: Mapping[str, int], *, position: str = "position"
) -> Layout:
    """The layout of a matrix of numbers and codes alone.

    Args:
        sizes: name of a column that holds codes → how many there are, as `Encoder.sizes` gives
            them.
    """
    codes = {place: sizes[name] for place, name in enumerate(columns) if name in sizes}
    numbers = tuple(place for place in range(len(columns)) if place not in codes)
    return Layout(
        tuple(columns),
        numbers,
        codes,
        position=list(columns).index(position) if position in columns else -1,
    )
