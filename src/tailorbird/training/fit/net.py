"""Fit a net: from the start or from the newest weights, and refuse a diverged one."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.models.architectures import NetOptions
from tailorbird.models.deep.fitting import NetModel
from tailorbird.models.deep.rows import Rows, RowSubset, describe_single_class
from tailorbird.training.fit.estimator import build_estimator, encode_parts
from tailorbird.training.fit.export import export_model
from tailorbird.training.fit.heads import FitInputs, FittedHeads
from tailorbird.training.fit.incremental import (
    begin_training,
    make_epoch_logger,
    save_state,
    start_from_scratch,
)
from tailorbird.training.fit.net_columns import keys_by_code_column
from tailorbird.training.settings import Progress, TrainSettings

if TYPE_CHECKING:
    from tailorbird.models.deep.model import DeepModel

QUICK_EPOCHS = 3
# Ratio to the log loss of a constant mean. Weights above it for every head are not saved as a
# start for the next training.
DIVERGED_LOSS_RATIO = 2.0


class DivergenceError(UsageError):
    """The training of a net diverged."""


def fit_net(
    inputs: FitInputs,
    architecture: str,
    settings: TrainSettings,
    progress: Progress,
    parity_rows: npt.NDArray[np.intp],
) -> FittedHeads:
    """Fit a net, with a warm start if the settings ask for one, and export it.

    Raises:
        DivergenceError: the training diverged.
        BundleError: the export gives other scores than the net.
    """
    parameters = dict(settings.parameters)
    if settings.quick:
        parameters.setdefault("epochs", QUICK_EPOCHS)
    train_rows = None if inputs.row_files is None else inputs.row_files.select_heads(inputs.heads)
    train, valid = encode_parts(inputs, train_rows)
    warm_start = begin_training(
        architecture=architecture,
        parameters=parameters,
        layout=train.layout,
        keys_by_column=keys_by_code_column(inputs.encoder),
        heads=inputs.heads,
        train_until=inputs.train_until,
        settings=settings,
    )
    if warm_start.rows_since is not None:
        newest_rows = RowSubset.from_mask(
            train.blocks, inputs.train.t[inputs.train.request_index] >= warm_start.rows_since
        )
        if reason := describe_single_class(newest_rows):
            warm_start = start_from_scratch(train.layout, parameters, f"since then {reason}")
        else:
            train = replace(train, blocks=newest_rows)
    net_options = NetOptions(
        on_epoch=make_epoch_logger(settings.logs),
        progress=partial(progress, f"net {architecture} (rows)"),
        checkpoint=settings.checkpoint,
        layout=warm_start.layout,
        initial_weights=warm_start.weights,
        processes=settings.processes,
    )
    model = build_estimator(
        architecture, warm_start.parameters, settings, net_options=net_options
    ).fit(train, valid)
    assert isinstance(model, NetModel)
    warm_start_note = _save_warm_start(
        model.deep, valid.rows, keys_by_code_column(inputs.encoder), inputs.train_until, settings
    )
    note = "; ".join(sentence for sentence in (warm_start.summary, warm_start_note) if sentence)
    return replace(export_model(model, inputs, settings, parity_rows), note=note)


def _save_warm_start(
    deep: "DeepModel",
    validation: Rows,
    keys_by_column: dict[int, npt.NDArray[np.uint64]],
    train_until: int,
    settings: TrainSettings,
) -> str:
    """Save the state for the next training; return a warning about the net, or "".

    Raises:
        DivergenceError: weights or losses are not finite.
    """
    check_convergence(deep)
    unskilled_heads = deep.find_heads_without_skill(validation)
    loss_list = ", ".join(
        f"{head} {loss:.4f} to {mean:.4f}" for head, (loss, mean) in unskilled_heads.items()
    )
    warning = (
        "the net tells no more of the validation part than its mean does, by log loss: "
        f"{loss_list}: it diverged, or there is little to learn"
    )
    is_unusable = all(
        loss > DIVERGED_LOSS_RATIO * mean for loss, mean in unskilled_heads.values()
    ) and len(unskilled_heads) == len(deep.heads)
    save_note = save_state(
        deep, keys_by_column, train_until, replace(settings, warm=None) if is_unusable else settings
    )
    suffix = "; no later training goes on from it" if is_unusable else ""
    return "; ".join(
        note for note in (f"{warning}{suffix}" if unskilled_heads else "", save_note) if note
    )


def check_convergence(deep: "DeepModel") -> None:
    """Raise if the training of a net diverged.

    Raises:
        DivergenceError: weights or losses are not finite.
    """
    if deep.has_diverged:
        problem = (
            f"the net diverged at a rate of {deep.parameters.rate:g}: its weights are no numbers"
        )
        raise DivergenceError(
            problem,
            where=deep.architecture,
            fix="""a lower rate, such as --parameters '{"rate": 0.0003}'""",
        )
