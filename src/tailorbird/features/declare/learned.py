"""Features from learned tables over all people's events, maintained by the candidates role.

    sequence("bought", user, "purchase", length=32)
    similarity("goes_with_bought", of="bought")

A request reads the current tables, and a training row those of its moment. The value is defined in
plain Python in `features.reference.learned`, and computed in `ranking.encode.similarities`.
"""

from collections.abc import Sequence
from typing import get_args

from tailorbird.errors import DeclarationError, suggest_name
from tailorbird.features.declare.checks import check_name, declaration_error, register_feature
from tailorbird.features.declare.declarations import (
    Feature,
    LearnedTable,
    SequenceOf,
    Similarity,
    SimilarityHow,
)
from tailorbird.features.declare.limits import SIMILARITY_LENGTH_DEFAULT, SIMILARITY_LENGTH_MAX

LEARNED_TABLES = get_args(LearnedTable)
SIMILARITY_HOWS = get_args(SimilarityHow)


def similarity(
    name: str,
    *,
    of: str,
    table: LearnedTable = "cooccurrence",
    how: SimilarityHow = "sum",
    length: int = SIMILARITY_LENGTH_DEFAULT,
    decay: float = 0.8,
) -> Similarity:
    """Score the candidate's similarity to the person's last items by a learned table.

    `similarity("goes_with_bought", of="bought", length=5)`

    0 where it was never seen with any of them; missing where none of them goes with anything yet.
    Models see it beside the features; `derived` columns do not.

    Args:
        of: the name of a `sequence`.
        table: `cooccurrence`: which items people have within a few events of each other, as the
            source `item_knn` has it.
        how: `sum` over the items, or `max`: the one that goes with it best.
        length: of how many of its last items, 1 to 64, and no more than the sequence keeps.
        decay: what an item weighs beside the one after it, above 0 and at most 1.
    """
    common_fields = check_name(name)
    for parameter, value, allowed in (
        ("table", table, LEARNED_TABLES),
        ("how", how, SIMILARITY_HOWS),
    ):
        if value not in allowed:
            raise declaration_error(f"{parameter}: expected {' or '.join(allowed)}, got {value!r}")
    if not isinstance(of, str):
        raise declaration_error(f"of: expected the name of a sequence, got {of!r}")
    if (
        not isinstance(length, int)
        or isinstance(length, bool)
        or not 1 <= length <= SIMILARITY_LENGTH_MAX
    ):
        raise declaration_error(f"length: expected 1 to {SIMILARITY_LENGTH_MAX}, got {length!r}")
    if not isinstance(decay, int | float) or isinstance(decay, bool) or not 0 < decay <= 1:
        raise declaration_error(f"decay: expected above 0 and at most 1, got {decay!r}")
    neighbours = (
        f"the best of the last {length} items of {of}"
        if how == "max"
        else f"the last {length} items of {of}"
    )
    return register_feature(
        Similarity(
            *common_fields,
            description=f"how much the item goes with {neighbours}, by {table}",
            of=of,
            table=table,
            how=how,
            length=length,
            decay=float(decay),
        )
    )


def check_similarities(similarities: Sequence[Similarity], features: Sequence[Feature]) -> None:
    """Check that each similarity uses a sequence that is long enough.

    Raises:
        DeclarationError: names the line.
    """
    sequence_by_name = {
        feature.name: feature for feature in features if isinstance(feature, SequenceOf)
    }
    declared_names = {feature.name for feature in features}
    for similarity_ in similarities:
        sequence = sequence_by_name.get(similarity_.of)
        if sequence is None:
            problem = (
                f"{similarity_.of!r} is no sequence"
                if similarity_.of in declared_names
                else f"there is no sequence {similarity_.of!r}"
            )
            fix = suggest_name(
                similarity_.of,
                sequence_by_name,
                f"sequences: {', '.join(sequence_by_name) or 'none; declare one with sequence()'}",
            )
            raise DeclarationError(
                f"{similarity_.name}: of: {problem}", where=similarity_.location, fix=fix
            )
        if similarity_.length > sequence.length:
            raise DeclarationError(
                f"{similarity_.name}: length: {similarity_.of} keeps {sequence.length} events, "
                f"not {similarity_.length}",
                where=similarity_.location,
                fix=f"length={sequence.length}, or a longer sequence",
            )
