"""Export a fitted model, compare it with its export, and find what its heads depend on."""

import numpy as np
import numpy.typing as npt

from tailorbird.models.architectures import Forests
from tailorbird.models.deep.fitting import NetModel
from tailorbird.models.estimator import HeadFile, Model
from tailorbird.models.export import compare_scores, largest_difference
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.own_models import SUFFIX, open_own_model
from tailorbird.training.fit.heads import FitInputs, FittedHeads, HeadModel, Matrix, ModelHead
from tailorbird.training.own import is_probability
from tailorbird.training.settings import TrainSettings

IMPORTANCE_ROWS = 2_000


def export_model(
    model: Model, inputs: FitInputs, settings: TrainSettings, parity_rows: npt.NDArray[np.intp]
) -> FittedHeads:
    """Export a model, and compare it with its export on the validation part.

    Raises:
        BundleError: the export gives other scores than the model.
    """
    rows = inputs.validation_served_matrix[parity_rows]
    models: dict[str, HeadModel] = {}
    if isinstance(model, Forests):
        models |= model.boosters
        is_probabilistic = all(
            booster.settings.objective != "lambdarank" for booster in model.boosters.values()
        )
    else:
        is_probabilistic = isinstance(model, NetModel) or is_probability(model, rows)
        importance_rows = rows[:: max(1, len(rows) // IMPORTANCE_ROWS)]
        importance_by_head = _permutation_importance(
            model, inputs.encoder, importance_rows, settings.seed
        )
        for head in model.heads:
            steps, step_unit = (  # as the report says how long the head was trained
                (model.deep.best_epoch_by_head[head], "epochs")
                if isinstance(model, NetModel)
                else (1, "fits")
            )
            models[head] = ModelHead(model, head, importance_by_head[head], steps, step_unit)
    files, head_files = model.export()
    parity_error = max(
        _measure_difference(models[head], head_file, files[head_file.file], rows)
        for head, head_file in head_files.items()
    )
    return FittedHeads(
        architecture=model.architecture,
        encoder=inputs.encoder,
        model_by_head=models,
        exported_files=files,
        head_files=head_files,
        parity_error=parity_error,
        is_probability=is_probabilistic,
    )


def _measure_difference(
    model: HeadModel, head_file: HeadFile, exported_bytes: bytes, rows: Matrix
) -> float:
    if not head_file.file.endswith(SUFFIX):
        return largest_difference(model, exported_bytes, rows, head_file.column)
    exported_model = open_own_model(exported_bytes, model_path=head_file.file)
    scores = exported_model.run([], {exported_model.get_inputs()[0].name: rows})[0][
        :, head_file.column
    ]
    return compare_scores(model.score(rows), scores)


def _permutation_importance(
    model: Model, encoder: Encoder, matrix: Matrix, seed: int
) -> dict[str, dict[str, float]]:
    """Return permutation importances by head and column.

    An importance is the share of the mean change in output when a column is shuffled. Columns that
    belong together are shuffled as one.
    """
    names = encoder.names
    group_by_column = dict.fromkeys(
        encoder.history.names[1:] if encoder.history else (), "newest items"
    )
    group_by_column |= {
        name: f"words of {words.attribute}" for words in encoder.words for name in words.names
    }
    columns_by_group: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        columns_by_group.setdefault(group_by_column.get(name, name), []).append(index)
    rng = np.random.default_rng(seed)
    scores = model.score(matrix)
    shift_by_head: dict[str, dict[str, float]] = {head: {} for head in scores}
    for name, columns in columns_by_group.items():
        shuffled_matrix = matrix.copy()
        shuffled_matrix[:, columns] = matrix[rng.permutation(len(matrix))][:, columns]
        for head, shuffled_scores in model.score(shuffled_matrix).items():
            shift_by_head[head][name] = float(np.abs(shuffled_scores - scores[head]).mean())
    shift_totals = {
        head: max(sum(by_column.values()), 1e-12) for head, by_column in shift_by_head.items()
    }
    return {
        head: {
            name: value / shift_totals[head]
            for name, value in sorted(by_column.items(), key=lambda entry: -entry[1])
        }
        for head, by_column in shift_by_head.items()
    }
