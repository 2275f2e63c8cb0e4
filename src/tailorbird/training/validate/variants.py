"""Other ways of training on the same split: with less data, without a group of columns, without the
people who are judged, trees for a net.

Each gives a value for every judged row of the split, so that all of them, the model as it is, and
the baselines are compared on the same requests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.features import FeatureSet
from tailorbird.features.declare import OF_CANDIDATES, POSITION
from tailorbird.models.architectures import DEEP
from tailorbird.models.deep.layout import Layout
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.ranking.computed import COMPUTED
from tailorbird.training.architecture import Diverged
from tailorbird.training.tune.architectures import Ask, Heads
from tailorbird.training.tune.rows import Part, Split
from tailorbird.training.validate.model import TREES, fit_model

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SHARES = (
    0.125,
    0.25,
    0.5,
)  # of the requests that are learned from; all of them are the model itself
GROUPS = 3  # that people are divided into
UNSEEN = "unseen people"
BOOSTED = "boosted trees"
IDS = "the item's id and the newest items"  # codes that nets alone see
POSITIVES_MIN = 20  # of a head that a variant learns from


@dataclass(frozen=True)
class Variant:
    """Attributes:
    name: as tables call it.
    kind: `architecture`, `amount`, `columns`, `people` or `settings`.
    value: of each judged row; None where there is too little to learn from, or a net diverged.
    """

    name: str
    kind: str
    value: Callable[[Split, Ask], Floats | None]


def variants_of(
    names: Sequence[str],
    features: FeatureSet,
    keep: Sequence[str] = (),
    defaults: bool = False,
    layout: Layout | None = None,
) -> list[Variant]:
    """All that are tried beside the model.

    Args:
        names: of the matrix's columns.
        keep: columns that `features rank` proposes to keep, if it has been asked.
        defaults: whether the model is tuned, so that the defaults stand beside it.
        layout: of the matrix, where a net may be fitted to it; trees then stand beside it.
    """
    found = [Variant(BOOSTED, "architecture", _trees)] if layout else []
    found += [Variant(amount_name(share), "amount", _amount(share)) for share in SHARES]
    found.append(Variant(UNSEEN, "people", _unseen))
    groups = column_groups(names, features, layout)
    found += [
        Variant(f"without {group}", "columns", _without(columns))
        for group, columns in groups.items()
        if len(groups) > 1
    ]
    always = {
        POSITION,
        *(layout.for_nets if layout else ()),
    }  # which `features rank` does not ask about
    kept = [name for name in names if name in keep or name in always]
    if set(kept) - always and len(kept) < len(names):
        found.append(Variant("columns that rank keeps", "columns", _only(kept)))
    if defaults:
        found.append(Variant("default settings", "settings", _defaults))
    return found


def amount_name(share: float) -> str:
    return f"{share:.1%} of the requests".replace(".0%", "%")


def column_groups(
    names: Sequence[str], features: FeatureSet, layout: Layout | None = None
) -> dict[str, tuple[str, ...]]:
    """What a column is of → its columns: of the item, the person, what they have to do with each
    other, the request, the index.

    Args:
        layout: of the matrix, where it has columns for nets: words are the item's, its id and the
            newest items a group of their own.
    """
    of = {column.name: column.entity for column in features.columns}
    of |= {one.output: of.get(one.column, "") for one in features.transforms}
    ids = {layout.columns[place] for place in layout.of_history} if layout else set()
    words = (
        {layout.columns[place] for bag in layout.bags for place in bag.places} if layout else set()
    )
    found: dict[str, list[str]] = {}
    for name in names:
        if name == POSITION:
            continue
        about = of.get(name)
        if name in ids:
            group = IDS
        elif name in words:
            group = "columns of item"
        elif name in COMPUTED or (
            about is None and any(name.startswith(f"{one}_") for one in COMPUTED)
        ):
            group = "columns of the index"
        elif OF_CANDIDATES.fullmatch(name):
            group = "columns of candidates"
        elif about is None:
            group = next(
                (
                    f"columns of {each or 'the request'}"
                    for column, each in of.items()
                    if name.startswith(f"{column}_")
                ),
                "others",
            )
        else:
            group = f"columns of {about}" if about else "columns of the request, and derived ones"
        found.setdefault(group, []).append(name)
    return {group: tuple(columns) for group, columns in sorted(found.items())}


def learnable(split: Split) -> Split | None:
    """The split with the heads that have enough to learn from, or None if no one has."""
    labels = split.train.labels
    heads = {
        head: weight
        for head, weight in split.objective.items()
        if min(labels[head].sum(), (~labels[head]).sum()) >= POSITIVES_MIN
    }
    return replace(split, objective=heads) if heads else None


def _amount(share: float) -> Callable[[Split, Ask], Floats | None]:
    def value(split: Split, ask: Ask) -> Floats | None:
        rng = np.random.default_rng([ask.seed, round(1000 * share)])
        kept = rng.random(len(split.train.t)) < share
        return _fitted(split.learned_from(kept, np.ones(len(split.watch.t), bool)), ask)

    return value


def _unseen(split: Split, ask: Ask) -> Floats | None:
    """Each third of the people is judged by a model that learned from the others; who is not known
    has been seen by nobody.
    """
    offset = split.judge.offsets
    whole = np.zeros(len(split.judge.matrix))
    for group in range(GROUPS):
        others = [_group(part) != group for part in (split.train, split.watch)]
        model = _model(split.learned_from(*others), ask)
        if model is None:
            return None
        asked = _group(split.judge) == group
        rows = np.repeat(asked, np.diff(offset))
        if rows.any():
            whole[rows] = model.value(split.judge.matrix[rows])
    return whole


def _group(part: Part) -> npt.NDArray[np.int64]:
    """Which third of the people each request is of; of nobody known, spread evenly."""
    mixed = (part.person.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return np.where(part.person < 0, np.arange(len(part.person)), mixed.astype(np.int64)) % GROUPS


def _without(columns: Sequence[str]) -> Callable[[Split, Ask], Floats | None]:
    def value(split: Split, ask: Ask) -> Floats | None:
        left = [name for name in split.names if name not in columns]
        asked = (
            left
            if ask.train.architecture in DEEP
            else [name for name in left if name in split.for_trees]
        )
        return _fitted(split.only(left), ask) if asked else None

    return value


def _only(columns: Sequence[str]) -> Callable[[Split, Ask], Floats | None]:
    return lambda split, ask: _fitted(
        split.only([name for name in split.names if name in columns]), ask
    )


def _defaults(split: Split, ask: Ask) -> Floats | None:
    plain = replace(GbdtSettings(), trees=ask.train.gbdt.trees, patience=ask.train.gbdt.patience)
    return _fitted(split, replace(ask, settings={}, train=replace(ask.train, gbdt=plain)))


def _trees(split: Split, ask: Ask) -> Floats | None:
    return _fitted(split, replace(ask, train=replace(ask.train, architecture=TREES)))


def _model(split: Split, ask: Ask) -> Heads | None:
    known = learnable(split)
    if known is None:
        return None
    try:
        return fit_model(known, ask)
    except Diverged:
        return None


def _fitted(split: Split, ask: Ask) -> Floats | None:
    model = _model(split, ask)
    return None if model is None else model.value(split.judge.matrix)
