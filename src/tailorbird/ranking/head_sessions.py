"""Sessions of a bundle's heads, run in blocks of rows."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError
from tailorbird.ranking.encode.rows import Matrix
from tailorbird.ranking.onnx_session import start_session
from tailorbird.ranking.own_models import SUFFIX as OWN_SUFFIX
from tailorbird.ranking.own_models import open_own_model
from tailorbird.registry import Head

Floats = npt.NDArray[np.float64]

ROWS_MAX = 4096  # ONNX Runtime's arena keeps the largest batch it ever saw

BLOCK_ROWS = 16  # as many numbers as a processor computes at a time, at most


class Session(Protocol):
    """What runs a model: an ONNX session, or an own model of the project."""

    def get_inputs(self) -> Sequence[Any]: ...
    def get_outputs(self) -> Sequence[Any]: ...
    def run(self, output_names: Any, input_feed: Any) -> Sequence[Any]: ...


def open_session(data: bytes, *, width: int, where: str) -> Session:
    """Open a model of `width` columns; raises BundleError if it is none."""
    if where.endswith(OWN_SUFFIX):
        return open_own_model(data, model_path=where)
    session = start_session(data, where=where)
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
    if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != width):
        raise BundleError(f"the model must take one float matrix of {width} columns", where=where)
    return session


def run_heads(
    sessions: Mapping[str, Session],
    heads: Sequence[Head],
    matrix: Matrix,
    forest_files: Collection[str] = (),
) -> dict[str, Floats]:
    """Run the models: head → (n,).

    The result is bit-identical whichever rows are scored together; the models in `forest_files`
    are so by themselves.
    """
    batches = [
        _run_batch(sessions, heads, matrix[start : start + ROWS_MAX], forest_files)
        for start in range(0, max(len(matrix), 1), ROWS_MAX)
    ]
    return (
        batches[0]
        if len(batches) == 1
        else {head.name: np.concatenate([batch[head.name] for batch in batches]) for head in heads}
    )


def _run_batch(
    sessions: Mapping[str, Session],
    heads: Sequence[Head],
    matrix: Matrix,
    forest_files: Collection[str],
) -> dict[str, Floats]:
    if not len(matrix):
        return {head.name: np.zeros(0) for head in heads}
    raw_by_head: dict[str, Floats] = {}
    for file, session in sessions.items():
        file_heads = [head for head in heads if head.file == file]
        input_rows = matrix if file in forest_files else _pad_rows(matrix)
        default_output = session.get_outputs()[-1].name
        output_names = list(dict.fromkeys(head.output or default_output for head in file_heads))
        try:
            outputs = dict(
                zip(
                    output_names,
                    session.run(output_names, {session.get_inputs()[0].name: input_rows}),
                    strict=True,
                )
            )
        except BundleError:
            raise
        except Exception as error:  # whatever ONNX Runtime or an own model raises
            raise BundleError(
                f"the model failed to run ({type(error).__name__})", where=file
            ) from error
        for head in file_heads:
            raw_by_head[head.name] = _output_column(
                np.asarray(outputs[head.output or default_output]), head, len(input_rows)
            )[: len(matrix)]
    return {head.name: raw_by_head[head.name] for head in heads}


def _pad_rows(matrix: Matrix) -> Matrix:
    """Pad the matrix to full blocks by repeating its last row.

    Vectorised functions compute a remainder differently, so that the last bits of a row's score
    would depend on the batch size.
    """
    padding_rows = -len(matrix) % BLOCK_ROWS
    return (
        np.concatenate([matrix, np.repeat(matrix[-1:], padding_rows, axis=0)])
        if padding_rows
        else matrix
    )


def _output_column(output: npt.NDArray[Any], head: Head, row_count: int) -> Floats:
    if (
        output.ndim > 2
        or output.shape[:1] != (row_count,)
        or not np.issubdtype(output.dtype, np.floating)
    ):
        raise BundleError(
            f"head {head.name} gave {output.dtype}{output.shape} for {row_count} rows",
            where=head.file,
        )
    column = output[:, head.column] if output.ndim == 2 else output
    return column.astype(np.float64)
