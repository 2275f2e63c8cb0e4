"""A project's own models: the estimators of its `models.py`, and how a bundle loads one.

A model that exports ONNX needs nothing here when it is served. One that has `save` and `load` lies
in a bundle as its bytes, in a file `model/NAME.own`, and `load` of the project's code reads them.
The golden rows of the bundle then tell whether that code still gives what it gave in training.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError, DeclarationError, UsageError, suggest_name
from tailorbird.project_file import run_file

Matrix = npt.NDArray[np.float32]

MODELS_FILE = "models.py"
SUFFIX = ".own"
INPUT_NAME = "features"
REQUIRED_METHODS = ("fit",)
_NAME_ATTRIBUTE = "estimator_name"  # as `models.registration` sets it


@dataclass
class _ModelsFile:
    """The `models.py` of the opened project, run when a class of it is first needed."""

    file: Path | None = None
    digest: str = ""
    estimator_classes: Mapping[str, type] | None = None


_models_file = _ModelsFile()


def use_models_file(file: Path | None) -> None:
    """Take own models from a file; None or a file that is missing has none."""
    source = file.read_bytes() if file is not None and file.is_file() else b""
    digest = blake2b(source, digest_size=8).hexdigest() if source else ""
    if file != _models_file.file or digest != _models_file.digest:
        _models_file.file = file
        _models_file.digest = digest
        _models_file.estimator_classes = None


def models_file() -> Path | None:
    """Return the file that own models come from."""
    return _models_file.file


def code_digest() -> str:
    """Return a hash of the file, "" without one."""
    return _models_file.digest


def own_estimator_classes() -> Mapping[str, type]:
    """Return the estimator classes of the project by name.

    Raises:
        DeclarationError: the file does not run, repeats a name, or a class lacks a method; names
            file and line.
    """
    if _models_file.estimator_classes is None:
        _models_file.estimator_classes = (
            _load_estimator_classes(_models_file.file)
            if _models_file.digest and _models_file.file
            else {}
        )
    return _models_file.estimator_classes


def find_estimator_class(name: str) -> type:
    """Return an estimator class by its name; raises UsageError if there is none."""
    estimator_classes = own_estimator_classes()
    if name not in estimator_classes:
        fix = suggest_name(name, estimator_classes, f"declare it in {MODELS_FILE}")
        raise UsageError(f"{MODELS_FILE} registers no estimator {name!r}", fix=fix)
    return estimator_classes[name]


def _load_estimator_classes(file: Path) -> dict[str, type]:
    estimator_classes: dict[str, type] = {}
    for value in run_file(file).values():
        name = value.__dict__.get(_NAME_ATTRIBUTE) if isinstance(value, type) else None
        if name is None:
            continue
        if name in estimator_classes and estimator_classes[name] is not value:
            raise DeclarationError(f"two estimators are named {name!r}", where=str(file))
        estimator_classes[name] = _require_protocol(value, name, file)
    return estimator_classes


def _require_protocol(estimator_class: type, name: str, file: Path) -> type:
    where = f"{file}, class {estimator_class.__name__}"
    if not isinstance(name, str) or not name.isidentifier():
        raise DeclarationError(f"{name!r} is no name", where=where, fix="such as recency")
    if missing := [
        method
        for method in REQUIRED_METHODS
        if not callable(getattr(estimator_class, method, None))
    ]:
        raise DeclarationError(f"has no method {missing[0]}", where=where, fix=f"add {missing[0]}")
    if hasattr(estimator_class, "save") and not callable(getattr(estimator_class, "load", None)):
        raise DeclarationError(
            "has a method save and no load", where=where, fix="add a static method load(data)"
        )
    space = estimator_class.search_space() if hasattr(estimator_class, "search_space") else {}
    defaults = default_settings(estimator_class)
    if unknown := [setting for setting in space if setting not in defaults]:
        raise DeclarationError(
            f"search_space names {unknown[0]!r}, for which __init__ has no default",
            where=where,
            fix=f"write def __init__(self, *, {unknown[0]}=…)",
        )
    return estimator_class


def default_settings(estimator_class: type) -> dict[str, Any]:
    """Return the settings of a class with their defaults: the parameters of its `__init__`."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(estimator_class).parameters.items()
        if parameter.default is not parameter.empty
    }


class OwnModel(Protocol):
    """What `load` returns."""

    def score(self, matrix: Matrix) -> Mapping[str, npt.NDArray]: ...


class OutputError(BundleError):
    """An own model gave something else than a finite number for each row."""


def checked_scores(
    scores: object, heads: tuple[str, ...], rows: int, *, where: str, requires_finite: bool = True
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the scores of an own model as float64, by head.

    Raises:
        OutputError: a head is missing, has another shape, or, with `requires_finite`, a value that
            is not finite.
    """
    if not isinstance(scores, Mapping):
        raise OutputError(
            f"score returned {type(scores).__name__}, not a dict",
            where=where,
            fix='return {"click": array of shape (n,)}',
        )
    columns_by_head = {}
    for head in heads:
        if head not in scores:
            raise OutputError(
                f"score returned no head {head!r}, only {', '.join(map(str, scores)) or 'none'}",
                where=where,
                fix="return an entry for each of train.heads",
            )
        column = np.asarray(scores[head], np.float64)
        if column.shape != (rows,):
            raise OutputError(
                f"score gave the shape {column.shape} for head {head} and {rows} rows",
                where=where,
                fix=f"return ({rows},)",
            )
        if requires_finite and not np.isfinite(column).all():
            bad_row = int(np.flatnonzero(~np.isfinite(column))[0])
            raise OutputError(
                f"score gave {column[bad_row]} for head {head}, row {bad_row}",
                where=where,
                fix="missing values of the matrix are NaN: replace them",
            )
        columns_by_head[head] = column
    return columns_by_head


@dataclass(frozen=True)
class _TensorInfo:
    """An input or an output of a session."""

    name: str
    shape: tuple[object, ...]
    type: str = "tensor(float)"


@dataclass(frozen=True)
class OwnSession:
    """A loaded own model with the interface of an ONNX session."""

    model: OwnModel
    heads: tuple[str, ...]
    where: str

    def get_inputs(self) -> list[_TensorInfo]:
        return [_TensorInfo(INPUT_NAME, (None, None))]

    def get_outputs(self) -> list[_TensorInfo]:
        return [_TensorInfo("scores", (None, len(self.heads)))]

    def run(
        self, output_names: list[str], input_feed: Mapping[str, Matrix]
    ) -> list[npt.NDArray[np.float64]]:
        """Return the scores of the heads, shape (n, heads)."""
        matrix = input_feed[INPUT_NAME]
        scores = checked_scores(
            self.model.score(matrix),
            self.heads,
            len(matrix),
            where=self.where,
            requires_finite=False,
        )
        return [np.column_stack([scores[head] for head in self.heads])]


def pack_model(heads: tuple[str, ...], data: bytes) -> bytes:
    """Return the file of a saved model: a line with its heads, and its bytes."""
    return ",".join(heads).encode() + b"\n" + data


def open_own_model(data: bytes, *, model_path: str) -> OwnSession:
    """Load a saved model by the code of the project.

    Raises:
        BundleError: the project has no such estimator any more, or its `load` fails.
    """
    name = model_path.rpartition("/")[2].removesuffix(SUFFIX)
    heads, _, model_bytes = data.partition(b"\n")
    try:
        model = find_estimator_class(name).load(model_bytes)  # type: ignore[attr-defined]
    except (UsageError, DeclarationError) as error:
        raise BundleError(error.message, where=error.where or model_path, fix=error.fix) from error
    except Exception as error:
        raise BundleError(
            f"load of {name} failed ({type(error).__name__}: {error})",
            where=f"{models_file()}",
            fix="mend load, or tailorbird models rollback",
        ) from error
    return OwnSession(model, tuple(heads.decode().split(",")), model_path)
