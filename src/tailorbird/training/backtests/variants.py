"""Other ways of training on the same split: less data, fewer columns, unseen people, trees for a
net.

Each returns a value for every holdout row of the split, so all variants, the model and the
baselines are compared on the same requests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.features import FeatureSet
from tailorbird.features.declare.declarations import CANDIDATE_COLUMN, POSITION_COLUMN
from tailorbird.models.deep.fitting import NETS
from tailorbird.models.deep.layout import Layout
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.ranking.encode.computed import COMPUTED_COLUMNS
from tailorbird.training.backtests.model import TREES, fit_model
from tailorbird.training.fit.net import DivergenceError
from tailorbird.training.tuning.architectures import CalibratedModel, FitRequest
from tailorbird.training.tuning.splits import Split, SplitPart

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

TRAINING_SHARES = (0.125, 0.25, 0.5)  # of the training requests
PEOPLE_GROUPS = 3
UNSEEN_PEOPLE = "unseen people"
BOOSTED_TREES = "boosted trees"
ITEM_ID_COLUMNS = "the item's id and the newest items"  # a group: codes that only nets use
CLASS_ROWS_MIN = 20  # positives, and negatives, that a head needs


@dataclass(frozen=True)
class Variant:
    """Another way of training.

    Attributes:
        name: as tables call it.
        kind: `architecture`, `amount`, `columns`, `people` or `settings`.
        fit_and_predict: returns a value of each holdout row; None if there is too little data, or a
            net diverged.
    """

    name: str
    kind: str
    fit_and_predict: Callable[[Split, FitRequest], Floats | None]


def build_variants(
    column_names: Sequence[str],
    features: FeatureSet,
    columns_to_keep: Sequence[str] = (),
    defaults: bool = False,
    layout: Layout | None = None,
) -> list[Variant]:
    """Return all variants that are compared with the model.

    Args:
        column_names: names of the matrix's columns.
        columns_to_keep: columns that `features rank` proposes to keep, if it has run.
        defaults: whether to compare with the defaults, for a tuned model.
        layout: of the matrix, if a net may be fitted to it; trees are then compared too.
    """
    variants = [Variant(BOOSTED_TREES, "architecture", _train_trees)] if layout else []
    variants += [
        Variant(share_variant_name(share), "amount", _train_on_share(share))
        for share in TRAINING_SHARES
    ]
    variants.append(Variant(UNSEEN_PEOPLE, "people", _score_unseen_people))
    columns_by_group = group_columns(column_names, features, layout)
    variants += [
        Variant(f"without {group}", "columns", _train_without(columns))
        for group, columns in columns_by_group.items()
        if len(columns_by_group) > 1
    ]
    unranked_columns = {
        POSITION_COLUMN,
        *(layout.net_only_columns if layout else ()),
    }  # `features rank` does not rank these
    kept_columns = [
        name for name in column_names if name in columns_to_keep or name in unranked_columns
    ]
    if set(kept_columns) - unranked_columns and len(kept_columns) < len(column_names):
        variants.append(Variant("columns that rank keeps", "columns", _train_only_on(kept_columns)))
    if defaults:
        variants.append(Variant("default settings", "settings", _train_with_defaults))
    return variants


def share_variant_name(share: float) -> str:
    return f"{share:.1%} of the requests".replace(".0%", "%")


def group_columns(
    column_names: Sequence[str], features: FeatureSet, layout: Layout | None = None
) -> dict[str, tuple[str, ...]]:
    """Return group → columns, by what a column describes.

    Groups are the item, the person, their relation, the request and the index.

    Args:
        layout: of the matrix, if it has columns for nets: words count as the item's, its id and
            the newest items are a group of their own.
    """
    entity_by_column = {column.name: column.entity for column in features.columns}
    entity_by_column |= {
        transform.output: entity_by_column.get(transform.column, "")
        for transform in features.transforms
    }
    id_columns = (
        {layout.columns[column_index] for column_index in layout.history_indexes}
        if layout
        else set()
    )
    word_columns = (
        {layout.columns[column_index] for bag in layout.bags for column_index in bag.column_indexes}
        if layout
        else set()
    )
    columns_by_group: dict[str, list[str]] = {}
    for name in column_names:
        if name == POSITION_COLUMN:
            continue
        entity = entity_by_column.get(name)
        if name in id_columns:
            group = ITEM_ID_COLUMNS
        elif name in word_columns:
            group = "columns of item"
        elif name in COMPUTED_COLUMNS or (
            entity is None and any(name.startswith(f"{prefix}_") for prefix in COMPUTED_COLUMNS)
        ):
            group = "columns of the index"
        elif CANDIDATE_COLUMN.fullmatch(name):
            group = "columns of candidates"
        elif entity is None:
            group = next(
                (
                    f"columns of {entity_name or 'the request'}"
                    for column, entity_name in entity_by_column.items()
                    if name.startswith(f"{column}_")
                ),
                "others",
            )
        else:
            group = f"columns of {entity}" if entity else "columns of the request, and derived ones"
        columns_by_group.setdefault(group, []).append(name)
    return {group: tuple(columns) for group, columns in sorted(columns_by_group.items())}


def with_learnable_heads(split: Split) -> Split | None:
    """Return the split with the heads that have enough data, or None without any."""
    labels_by_head = split.train.labels
    learnable_objective = {
        head: weight
        for head, weight in split.objective.items()
        if min(labels_by_head[head].sum(), (~labels_by_head[head]).sum()) >= CLASS_ROWS_MIN
    }
    return replace(split, objective=learnable_objective) if learnable_objective else None


def _train_on_share(share: float) -> Callable[[Split, FitRequest], Floats | None]:
    """Return the `fit_and_predict` of a variant that learns from a share of the requests."""

    def fit_on_share(split: Split, request: FitRequest) -> Floats | None:
        rng = np.random.default_rng([request.seed, round(1000 * share)])
        is_selected = rng.random(len(split.train.t)) < share
        return _fit_and_score(
            split.restrict_training(is_selected, np.ones(len(split.validation.t), bool)), request
        )

    return fit_on_share


def _score_unseen_people(split: Split, request: FitRequest) -> Floats | None:
    """Score each third of the people by a model trained on the others.

    Unknown people are unseen by definition.
    """
    offsets = split.holdout.offsets
    scores = np.zeros(len(split.holdout.matrix))
    for group in range(PEOPLE_GROUPS):
        other_group_masks = [
            _people_group(part) != group for part in (split.train, split.validation)
        ]
        model = _fit_or_none(split.restrict_training(*other_group_masks), request)
        if model is None:
            return None
        in_group = _people_group(split.holdout) == group
        row_mask = np.repeat(in_group, np.diff(offsets))
        if row_mask.any():
            scores[row_mask] = model.predict_values(split.holdout.matrix[row_mask])
    return scores


def _people_group(part: SplitPart) -> npt.NDArray[np.int64]:
    """Return the third of the people of each request; unknown people are spread evenly."""
    hashed_person = (part.person.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return (
        np.where(part.person < 0, np.arange(len(part.person)), hashed_person.astype(np.int64))
        % PEOPLE_GROUPS
    )


def _train_without(columns: Sequence[str]) -> Callable[[Split, FitRequest], Floats | None]:
    def fit_without_columns(split: Split, request: FitRequest) -> Floats | None:
        remaining_columns = [name for name in split.names if name not in columns]
        usable_columns = (
            remaining_columns
            if request.train_settings.architecture in NETS
            else [name for name in remaining_columns if name in split.tree_columns]
        )
        return (
            _fit_and_score(split.select_columns(remaining_columns), request)
            if usable_columns
            else None
        )

    return fit_without_columns


def _train_only_on(columns: Sequence[str]) -> Callable[[Split, FitRequest], Floats | None]:
    return lambda split, request: _fit_and_score(
        split.select_columns([name for name in split.names if name in columns]), request
    )


def _train_with_defaults(split: Split, request: FitRequest) -> Floats | None:
    default_gbdt = replace(
        GbdtSettings(),
        trees=request.train_settings.gbdt.trees,
        patience=request.train_settings.gbdt.patience,
    )
    return _fit_and_score(
        split,
        replace(
            request, settings={}, train_settings=replace(request.train_settings, gbdt=default_gbdt)
        ),
    )


def _train_trees(split: Split, request: FitRequest) -> Floats | None:
    return _fit_and_score(
        split, replace(request, train_settings=replace(request.train_settings, architecture=TREES))
    )


def _fit_or_none(split: Split, request: FitRequest) -> CalibratedModel | None:
    learnable_split = with_learnable_heads(split)
    if learnable_split is None:
        return None
    try:
        return fit_model(learnable_split, request)
    except DivergenceError:
        return None


def _fit_and_score(split: Split, request: FitRequest) -> Floats | None:
    model = _fit_or_none(split, request)
    return None if model is None else model.predict_values(split.holdout.matrix)
