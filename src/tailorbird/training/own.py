"""A project's own estimators in training: their methods are called here, and checked."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import TailorbirdError, UsageError
from tailorbird.models.estimator import (
    Dimensions,
    EncodedRows,
    HeadFile,
    Model,
    describe_settings,
    name_head_files,
)
from tailorbird.ranking.own_models import (
    SUFFIX,
    checked_scores,
    default_settings,
    find_estimator_class,
    models_file,
    pack_model,
)

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


class OwnEstimator:
    """An estimator of the project's `models.py` with its settings.

    Args:
        name: the name by which it is registered.
        settings: passed to its `__init__`, and a seed if it takes one.

    Raises:
        UsageError: there is no such estimator, or it has no such setting.
    """

    def __init__(self, name: str, settings: Mapping[str, Any], *, seed: int = 7) -> None:
        self.name = name
        self._estimator_class = find_estimator_class(name)
        self._where = f"{models_file()}, class {self._estimator_class.__name__}"
        parameters = inspect.signature(self._estimator_class).parameters
        if unknown := [setting for setting in settings if setting not in parameters]:
            fix = f"use one of {', '.join(parameters)}" if parameters else "it takes none"
            raise UsageError(f"{name} has no setting {unknown[0]!r}", where=self._where, fix=fix)
        self.settings = {**({"seed": seed} if "seed" in parameters else {}), **settings}

    def fit(self, train: EncodedRows, valid: EncodedRows) -> "OwnModel":
        """Fit it, and check what it returns by scoring some of the rows.

        Raises:
            UsageError: it fails, returns no model, or the model gives something else than a number
                for each row.
        """
        returned_model = self._call(
            "fit", lambda: self._estimator_class(**self.settings).fit(train, valid)
        )
        if not callable(getattr(returned_model, "score", None)):
            raise UsageError(
                f"fit returned {type(returned_model).__name__}, which has no method score",
                where=self._where,
                fix="return self, and add score(matrix)",
            )
        if not any(
            callable(getattr(returned_model, method, None)) for method in ("export", "save")
        ):
            raise UsageError(
                f"{type(returned_model).__name__} has neither a method export nor save",
                where=self._where,
                fix="add export(), which returns ONNX, or save() and a static load(data)",
            )
        model = OwnModel(self.name, train.heads, returned_model, self._where)
        model.score(valid.matrix[:100])
        return model

    def search_space(self) -> Dimensions:
        """Return what `tune` may try; empty if the class has none."""
        space = getattr(self._estimator_class, "search_space", None)
        return space() if space is not None else {}

    def defaults(self) -> dict[str, Any]:
        """Return the settings with their defaults."""
        return default_settings(self._estimator_class)

    def _call(self, method: str, work: Any) -> Any:
        try:
            return work()
        except TailorbirdError:
            raise
        except Exception as error:
            raise UsageError(
                f"{method} failed: {type(error).__name__}: {error}",
                where=self._where,
                fix=f"mend {method}",
            ) from error

    def __repr__(self) -> str:
        return describe_settings(self._estimator_class.__name__, self.settings)


@dataclass(frozen=True)
class OwnModel:
    """What an own estimator's `fit` returned, with its output checked.

    Attributes:
        fitted: has `score`, and `export` or `save`.
        where: file and class of the estimator, for errors.
    """

    architecture: str
    heads: tuple[str, ...]
    fitted: Any
    where: str

    @property
    def curve(self) -> Mapping[str, list[float]]:
        return getattr(self.fitted, "curve", {})

    def score(self, matrix: Matrix) -> dict[str, Floats]:
        """Return head → scores, shape (n,).

        Raises:
            BundleError: it gives no finite number for a row and head.
        """
        return checked_scores(self.fitted.score(matrix), self.heads, len(matrix), where=self.where)

    def export(self) -> tuple[dict[str, bytes], dict[str, HeadFile]]:
        """Return its ONNX files, or its saved bytes.

        `export` of the project returns head → ONNX. `save` returns bytes that `load` reads.
        """
        if callable(getattr(self.fitted, "export", None)):
            return self._onnx_files(self.fitted.export())
        data = self.fitted.save()
        if not isinstance(data, bytes):
            raise UsageError(
                f"save returned {type(data).__name__}, not bytes",
                where=self.where,
                fix="such as json.dumps(weights).encode()",
            )
        file = f"model/{self.architecture}{SUFFIX}"
        return {file: pack_model(self.heads, data)}, {
            head: HeadFile(file, column) for column, head in enumerate(self.heads)
        }

    def _onnx_files(self, exported: object) -> tuple[dict[str, bytes], dict[str, HeadFile]]:
        if not isinstance(exported, Mapping) or set(exported) != set(self.heads):
            raise UsageError(
                "export did not return one ONNX file for each head",
                where=self.where,
                fix=f"return {{head: bytes}} for {', '.join(self.heads)}",
            )
        return name_head_files({head: exported[head] for head in self.heads})


def is_probability(model: Model, matrix: Matrix) -> bool:
    """Return whether all scores of some rows lie from 0 to 1."""
    return all(
        bool(((scores >= 0) & (scores <= 1)).all()) for scores in model.score(matrix).values()
    )
