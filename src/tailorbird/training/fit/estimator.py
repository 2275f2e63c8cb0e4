"""Build the estimator of an architecture, and the rows that it is fitted on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from lightgbm import Booster

from tailorbird.models.architectures import GBDT, HeadProgress, Logistic, NetOptions, NeuralNet
from tailorbird.models.deep.fitting import NETS
from tailorbird.models.deep.rows import Blocks, Rows
from tailorbird.models.estimator import EncodedRows, Estimator, HeadKind
from tailorbird.ranking.policy.targets import is_amount_head, parse_return
from tailorbird.training.fit.heads import FitInputs
from tailorbird.training.fit.net_columns import build_layout
from tailorbird.training.own import OwnEstimator
from tailorbird.training.settings import TrainSettings


def build_estimator(
    name: str,
    parameters: Mapping[str, Any],
    settings: TrainSettings,
    *,
    progress: HeadProgress | None = None,
    net_options: NetOptions | None = None,
    initial_boosters: Mapping[str, Booster] | None = None,
) -> Estimator:
    """Return an estimator as training fits it: the one place that says how a model is fitted.

    Args:
        parameters: settings that differ from its defaults; of trees, from `settings.gbdt`.
        initial_boosters: head → booster to which trees are added.

    Raises:
        UsageError: there is no such estimator, or it has no such setting.
    """
    if name == "gbdt":
        overrides: dict[str, Any] = {"seed": settings.seed, **parameters}
        return GBDT(
            settings.gbdt, progress=progress, initial_boosters=initial_boosters, **overrides
        )
    if name == "logistic":
        return Logistic(**parameters)
    if name in NETS:
        return NeuralNet(name, seed=settings.seed, options=net_options, **parameters)
    return OwnEstimator(name, parameters, seed=settings.seed)


def encode_parts(inputs: FitInputs, train_rows: Blocks | None) -> tuple[EncodedRows, EncodedRows]:
    """Return the training part, or the `train_rows` in its place, and the validation part."""
    layout = build_layout(inputs.encoder)
    heads = inputs.heads
    kind_by_head: dict[str, HeadKind] = {
        head: "return" if parse_return(head) else "amount" if is_amount_head(head) else "item"
        for head in heads
    }
    train = train_rows or Rows(
        inputs.train_matrix,
        {head: inputs.train_labels[head] for head in heads},
        inputs.train.weight,
        np.diff(inputs.train.offsets),
    )
    valid = Rows(
        inputs.validation_shown_matrix,
        {head: inputs.validation.labels[head] for head in heads},
        inputs.validation.weight,
        np.diff(inputs.validation.offsets),
    )
    return EncodedRows(train, layout, kind_by_head), EncodedRows(valid, layout, kind_by_head)
