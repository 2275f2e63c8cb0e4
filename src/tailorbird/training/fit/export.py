"""Export a fitted model, compare it with its export, and find what its heads depend on."""

import numpy as np
import numpy.typing as npt

from tailorbird.models.architectures import Forests
from tailorbird.models.deep.fitting import Net
from tailorbird.models.estimator import HeadFile, Model
from tailorbird.models.export import compare_scores, largest_difference
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.own_models import SUFFIX, open_own
from tailorbird.training.fit.heads import FitInputs, FittedHeads, HeadModel, Matrix, ModelHead
from tailorbird.training.own import is_probability
from tailorbird.training.settings import TrainSettings

IMPORTANCE_ROWS = 2_000


def export_model(
    model: Model, inputs: FitInputs, settings: TrainSettings, sample: npt.NDArray[np.intp]
) -> FittedHeads:
    """Export a model, and compare it with its export on the validation part.

    Raises:
        BundleError: the export gives other scores than the model.
    """
    rows = inputs.validation_served[sample]
    models: dict[str, HeadModel] = {}
    if isinstance(model, Forests):
        models |= model.boosters
        is_probabilistic = all(
            booster.settings.objective != "lambdarank" for booster in model.boosters.values()
        )
    else:
        is_probabilistic = isinstance(model, Net) or is_probability(model, rows)
        probe = rows[:: max(1, len(rows) // IMPORTANCE_ROWS)]
        importances = _permutation_importance(model, inputs.encoder, probe, settings.seed)
        for head in model.heads:
            steps, calibration_unit = (
                (model.deep.best_epoch[head], "epochs") if isinstance(model, Net) else (1, "fits")
            )
            models[head] = ModelHead(model, head, importances[head], steps, calibration_unit)
    files, head_files = model.export()
    parity = max(
        _measure_difference(models[head], head_file, files[head_file.file], rows)
        for head, head_file in head_files.items()
    )
    return FittedHeads(
        model.architecture, inputs.encoder, models, files, head_files, parity, is_probabilistic
    )


def _measure_difference(
    model: HeadModel, head_file: HeadFile, exported: bytes, rows: Matrix
) -> float:
    if not head_file.file.endswith(SUFFIX):
        return largest_difference(model, exported, rows, head_file.column)
    loaded = open_own(exported, where=head_file.file)
    scores = loaded.run([], {loaded.get_inputs()[0].name: rows})[0][:, head_file.column]
    return compare_scores(model.score(rows), scores)


def _permutation_importance(
    model: Model, encoder: Encoder, matrix: Matrix, seed: int
) -> dict[str, dict[str, float]]:
    """Return permutation importances by head and column.

    An importance is the share of the mean change in output when a column is shuffled. Columns that
    belong together are shuffled as one.
    """
    names = encoder.names
    group_of = dict.fromkeys(encoder.history.names[1:] if encoder.history else (), "newest items")
    group_of |= {
        name: f"words of {words.attribute}" for words in encoder.words for name in words.names
    }
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(group_of.get(name, name), []).append(index)
    rng = np.random.default_rng(seed)
    outputs = model.score(matrix)
    shifts: dict[str, dict[str, float]] = {head: {} for head in outputs}
    for name, columns in groups.items():
        shuffled = matrix.copy()
        shuffled[:, columns] = matrix[rng.permutation(len(matrix))][:, columns]
        for head, after in model.score(shuffled).items():
            shifts[head][name] = float(np.abs(after - outputs[head]).mean())
    total = {head: max(sum(by_column.values()), 1e-12) for head, by_column in shifts.items()}
    return {
        head: {
            name: value / total[head]
            for name, value in sorted(by_column.items(), key=lambda entry: -entry[1])
        }
        for head, by_column in shifts.items()
    }
