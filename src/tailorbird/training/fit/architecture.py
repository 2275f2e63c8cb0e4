"""Model architectures of heads: boosters, one net for all heads, or the better of the two.

Boosters and nets read the same matrix; a net also reads the columns of `ranking.encode.history`.
`auto` chooses the net only if the lower end of its paired gain on the validation part is above 0. A
net costs more to serve, and the gate sees the test part alone.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.models.architectures import ARCHITECTURES
from tailorbird.models.deep.fitting import NETS, is_available
from tailorbird.models.deep.rows import Rows
from tailorbird.ranking.own_models import own_estimator_classes
from tailorbird.ranking.policy.targets import is_amount_head
from tailorbird.training.dataset.chunks import sample_blocks
from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval, encode_people
from tailorbird.training.evaluation.metrics import ndcg, rank_lists
from tailorbird.training.fit.estimator import build_estimator, encode_parts
from tailorbird.training.fit.export import export_model
from tailorbird.training.fit.heads import FitInputs, FittedHeads, Floats
from tailorbird.training.fit.net import fit_net
from tailorbird.training.fit.net_columns import drop_net_columns
from tailorbird.training.settings import AUTO, Progress, TrainSettings

ARCHITECTURE_CHOICES = (*ARCHITECTURES, AUTO)


def allows_net(settings: TrainSettings) -> bool:
    """Return whether a net may be fitted.

    Raises:
        UsageError: the architecture is unknown, or its dependencies are not installed.
    """
    choices = (*ARCHITECTURE_CHOICES, *own_estimator_classes())
    if settings.architecture not in choices:
        raise UsageError(
            f"there is no architecture {settings.architecture!r}",
            fix=f"use one of {', '.join(choices)}",
        )
    if settings.architecture == AUTO:
        return is_available("dcn")
    if not is_available(settings.architecture):
        raise UsageError(
            f"{settings.architecture} needs torch, which is not installed",
            fix="pip install 'tailorbird[deep]'",
        )
    return settings.architecture in NETS


def fit_heads(
    inputs: FitInputs,
    settings: TrainSettings,
    progress: Progress,
    parity_rows: npt.NDArray[np.intp],
) -> FittedHeads:
    """Fit the configured architecture. Trees always predict expected amounts, also next to a net.

    Args:
        parity_rows: rows of the validation part on which model and export are compared.
    """
    amount_heads = tuple(head for head in inputs.heads if is_amount_head(head))
    probability_heads = tuple(head for head in inputs.heads if not is_amount_head(head))
    if not amount_heads or (settings.architecture == "gbdt" and not settings.challengers):
        return _fit_by_architecture(inputs, settings, progress, parity_rows)
    if not probability_heads:
        return _fit_amount_trees(
            inputs=inputs,
            tree_inputs=inputs.without_net_columns(),
            heads=amount_heads,
            settings=settings,
            progress=progress,
            parity_rows=parity_rows,
        )
    fitted_heads = _fit_by_architecture(
        replace(inputs, heads=probability_heads), settings, progress, parity_rows
    )
    tree_inputs = (
        inputs.with_blank_net_columns()
        if len(fitted_heads.encoder.names) == len(inputs.encoder.names)
        else inputs.without_net_columns()
    )
    fitted_trees = _fit_amount_trees(
        inputs=inputs,
        tree_inputs=tree_inputs,
        heads=amount_heads,
        settings=settings,
        progress=progress,
        parity_rows=parity_rows,
    )
    files = {**fitted_heads.exported_files, **fitted_trees.exported_files}
    head_files = {**fitted_heads.head_files, **fitted_trees.head_files}
    note = "; ".join(part for part in (fitted_heads.note, fitted_trees.note) if part)
    parity_error = max(fitted_heads.parity_error, fitted_trees.parity_error)
    return replace(
        fitted_heads,
        model_by_head={**fitted_heads.model_by_head, **fitted_trees.model_by_head},
        exported_files=files,
        head_files=head_files,
        parity_error=parity_error,
        note=note,
    )


def _fit_amount_trees(
    inputs: FitInputs,
    tree_inputs: FitInputs,
    heads: tuple[str, ...],
    settings: TrainSettings,
    progress: Progress,
    parity_rows: npt.NDArray[np.intp],
) -> FittedHeads:
    """Fit trees of expected amounts.

    If the rows lie in files, the trees see a sample that fits into memory.
    """
    tree_inputs = replace(tree_inputs, heads=heads)
    if inputs.row_files is None:
        return _fit_boosters(tree_inputs, settings, progress, parity_rows)
    sampled_rows = sample_blocks(inputs.row_files.select_heads(heads), settings.rows_in_memory)
    matrix = sampled_rows.matrix.copy()
    matrix[:, len(drop_net_columns(inputs.encoder).names) :] = np.nan
    sampled_rows = replace(
        sampled_rows, matrix=np.ascontiguousarray(matrix[:, : len(tree_inputs.encoder.names)])
    )
    fitted_heads = _fit_boosters(tree_inputs, settings, progress, parity_rows, sampled_rows)
    note = (
        f"{', '.join(heads)} was learned by trees, from {len(sampled_rows):,} of the "
        f"{len(inputs.row_files):,} rows in files, evenly over all"
    )
    return replace(fitted_heads, note=note)


def _fit_by_architecture(
    inputs: FitInputs,
    settings: TrainSettings,
    progress: Progress,
    parity_rows: npt.NDArray[np.intp],
) -> FittedHeads:
    if settings.architecture in NETS:
        return fit_net(inputs, settings.architecture, settings, progress, parity_rows)
    tree_inputs = inputs.without_net_columns()
    if settings.architecture not in ("gbdt", AUTO):
        return _fit_named_estimator(tree_inputs, settings.architecture, settings, parity_rows)
    challengers: dict[str, FittedHeads] = {}
    boosters = _fit_boosters(tree_inputs, settings, progress, parity_rows)
    if settings.architecture == AUTO and allows_net(settings):
        name = auto_net_architecture(inputs.heads)
        challengers[name] = fit_net(inputs, name, settings, progress, parity_rows)
    for name in settings.challengers:
        progress(name, 0, 1)
        challengers[name] = _fit_named_estimator(
            tree_inputs, name, replace(settings, parameters={}), parity_rows
        )
        progress(name, 1, 1)
    winner = _choose_winner(inputs, boosters, challengers)
    if settings.architecture == AUTO and not allows_net(settings):
        no_net_note = (
            "gbdt, as torch is not installed: pip install 'tailorbird[deep]' lets auto try nets"
        )
        return replace(winner, note="; ".join(part for part in (winner.note, no_net_note) if part))
    return winner


def _choose_winner(
    inputs: FitInputs, boosters: FittedHeads, challengers: Mapping[str, FittedHeads]
) -> FittedHeads:
    """Return the model that beats the boosters most on the validation part, or the boosters."""
    winner = boosters
    best_gain = 0.0
    comparisons = []
    for name, challenger in challengers.items():
        gain = _validation_gain(inputs, challenger, boosters)
        comparisons.append(f"{gain.signed_text} for {name} over gbdt")
        if gain.has_bounds and gain.low > 0 and gain.value > best_gain:
            winner = challenger
            best_gain = gain.value
    if not comparisons:
        return boosters
    comparison = f"ndcg_10 on the validation part {', '.join(comparisons)}"
    notes = (
        f"{winner.architecture} was chosen: {comparison}",
        *(challenger.note for challenger in challengers.values()),
    )
    return replace(winner, note="; ".join(note for note in notes if note))


def auto_net_architecture(heads: Collection[str]) -> str:
    """Return the net that `auto` compares with trees."""
    return "mmoe" if len(heads) > 1 else "dcn"


def _fit_boosters(
    inputs: FitInputs,
    settings: TrainSettings,
    progress: Progress,
    parity_rows: npt.NDArray[np.intp],
    train_rows: Rows | None = None,
) -> FittedHeads:
    """Fit trees for each head; `train_rows` replaces the rows of the training part."""
    estimator = build_estimator(
        "gbdt",
        {},
        settings,
        progress=lambda head, done, total: progress(f"trees of {head}", done, total),
        initial_boosters=inputs.boosters,
    )
    return export_model(
        estimator.fit(*encode_parts(inputs, train_rows)), inputs, settings, parity_rows
    )


def _fit_named_estimator(
    inputs: FitInputs, name: str, settings: TrainSettings, parity_rows: npt.NDArray[np.intp]
) -> FittedHeads:
    """Fit an estimator that reads the columns of trees: regressions, or one of the project."""
    estimator = build_estimator(name, settings.parameters, settings)
    return export_model(estimator.fit(*encode_parts(inputs, None)), inputs, settings, parity_rows)


def _validation_gain(inputs: FitInputs, challenger: FittedHeads, boosters: FittedHeads) -> Interval:
    """Return the gain in NDCG@10 of a net over boosters on the validation part, as served.

    Ranking outputs have no scale, so the heads are calibrated before they are added.
    """
    values = []
    for fitted_heads in (challenger, boosters):
        raw_scores = fitted_heads.score(
            np.ascontiguousarray(
                inputs.validation_served_matrix[:, : len(fitted_heads.encoder.names)]
            )
        )
        choices = fitted_heads.choose_calibrations(
            raw_scores, inputs.validation, inputs.label_window_us
        )
        weighted_predictions = [
            weight * choices[head].calibration.apply(raw_scores[head])
            for head, weight in inputs.objective.items()
            if head in raw_scores
        ]
        values.append(sum(weighted_predictions, np.zeros(len(inputs.validation_served_matrix))))
    challenger_values, booster_values = values
    return ndcg_gain(
        challenger_values,
        booster_values,
        inputs.validation.gain(inputs.objective),
        inputs.validation.offsets,
        inputs.validation.person_codes,
    )


def ndcg_gain(
    scores: Floats,
    reference_scores: Floats,
    row_gains: Floats,
    offsets: npt.NDArray[np.int64],
    person_codes: npt.NDArray[np.int64],
) -> Interval:
    """Return the paired gain in NDCG@10 of one ordering over another, with interval over users."""
    ndcgs, reference_ndcgs = (
        ndcg(rank_lists(values, row_gains, offsets)) for values in (scores, reference_scores)
    )
    return Bootstrap(encode_people(person_codes), seed=0).difference(ndcgs, reference_ndcgs)
